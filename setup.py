"""Install vtadl_jax: `pip install -e .` and, after a comma, the extras below."""

import re
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent
VERSION = re.search(
    r'__version__ = "(.+)"', (HERE / "vtadl_jax" / "__init__.py").read_text(encoding="utf-8")
).group(1)

# Bounds are what the tests were run with: jax 0.10.2 on Python 3.11 (0.11 and later need 3.12), jax
# 0.12 on 3.12 and 3.13; 0.11 was not tried.
JAX = ">=0.10.2,!=0.11.*,<0.13"


class BuildWithConfigs(build_py):
    """Puts the checkout's experiment files into the package, where an installed one finds them."""

    def find_package_modules(self, package, package_dir):
        modules = super().find_package_modules(package, package_dir)
        if package == "vtadl_jax.configs":
            files = sorted(HERE.glob("configs/*.py"))
            modules += [(package, f.stem, str(f)) for f in files if f.stem != "__init__"]
        return modules


setup(
    name="vtadl_jax",
    version=VERSION,
    description="Find and locate defects in images with JAX, learning from good images alone",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11,<3.14",
    packages=find_packages(include=["vtadl_jax*"]),
    cmdclass={"build_py": BuildWithConfigs},
    package_data={
        "vtadl_jax.report": [
            *("head.html", "common.js", "page.css"),
            *("page.html", "page.js", "prediction.html", "prediction.js"),
        ],
        "vtadl_jax.compiling": ["page.css"],
        "vtadl_jax.comparing": ["page.css"],
        "vtadl_jax.regions": ["page.html", "page.css", "page.js"],
        "vtadl_jax.serving": ["page.html", "page.css", "page.js"],
    },
    install_requires=[
        f"jax{JAX}",
        "flax>=0.12.8,<0.13",
        "optax>=0.2.8,<0.3",
        "orbax-checkpoint>=0.12.8,<0.13",
        "grain>=0.2.18,<0.3",
        "array-record>=0.8.3,<0.9",
        "protobuf>=6,<8",
        "tensorflow-datasets>=4.9.10,<5",
        "importlib_resources",  # tensorflow-datasets imports it without declaring it
        "ml-collections>=1.1,<2",
        "absl-py>=2.1,<3",
        "numpy>=2.0,<3",
        "scipy>=1.14,<2",
        "pillow>=11,<14",
        "imagecodecs>=2026.3,<2027",  # PNG in half the time that Pillow takes
        "psutil>=6,<8",
        "tensorboardX>=2.6.5,<3",
        "tqdm>=4.67,<5",
        "safetensors>=0.7,<1",  # files of exports and of other programs
        "flatbuffers>=25,<26",  # jax.export writes its programs by it, and does not require it
    ],
    extras_require={
        "cuda": [f"jax[cuda13]{JAX}"],
        "tpu": [f"jax[tpu]{JAX}"],
        "elpv": ["elpv-dataset>=1.0,<2"],
        "weights": [],  # safetensors, which is always there now
        # export --format onnx; the quantization to int8 imports sympy and ml_dtypes.
        "onnx": ["onnx>=1.20,<2", "onnxruntime[quantization,symbolic]>=1.24,<2"],
        "torch": ["torch>=2.9"],  # to write PyTorch files; reading them takes none
        "hub": ["huggingface_hub>=2.4,<3", "safetensors>=0.7,<1"],  # import_weights fetch
        "serve": [  # python -m vtadl_jax.serve over HTTP
            "fastapi>=0.165,<0.166",
            "uvicorn>=0.54,<0.55",
            "python-multipart>=0.0.34,<0.1",
            "prometheus-client>=0.26,<0.27",
        ],
        "bench": [
            "torch>=2.9",
            "scikit-learn>=1.7",
            "distrax>=0.1.9,<0.2",
            # Programs whose encoders ours are compared with.
            "torchvision>=0.24",
            "timm>=1.0.31,<2",
            "transformers>=5.24,<6",
        ],
        "test": [
            "pytest>=9,<10",
            "pytest-xdist>=3.8,<4",
            "hypothesis>=6.150,<7",
            "safetensors>=0.7,<1",
            "onnx>=1.20,<2",
            "onnxruntime[quantization,symbolic]>=1.24,<2",
            "scikit-learn>=1.7,<2",
            "selenium>=4.30,<5",  # drives a Chromium that is there; none is downloaded
            "kubernetes-validate>=1.37,<2",  # schemas of launch/*.yaml
            "check-jsonschema>=0.39,<1",  # has the schema of Compose files
            "httpx>=0.28,<1",  # calls the service
            "schemathesis>=4.32,<5",  # sends the service what its OpenAPI document allows
            "ruff==0.17.6",
            "mypy==2.4.1",
        ],
        # The site of docs/: mkdocs.yml. mkdocs 2 is another program.
        "docs": ["mkdocs>=1.6,<2", "mkdocs-material>=9.8,<10", "mkdocstrings[python]>=1.0,<2"],
    },
    classifiers=[
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Image Recognition",
    ],
)
