"""What is installed from a wheel works outside the checkout."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
OWN = """from vtadl_jax.configs import context_mdn


def get_config(category: str = ""):
    c = context_mdn.get_config(category)
    c.model.mdn.num_components = 3
    return c
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder that holds the package as pip installs its wheel; the dependencies are shared."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    names = ("setup.py", "pyproject.toml", "README.md", "LICENSE", "configs", "vtadl_jax")
    for name in names:  # a link would leave pip's build folder in the checkout
        subprocess.run(["cp", "-r", ROOT / name, source], check=True)
    pip = [sys.executable, "-m", "pip", "-q"]
    built = subprocess.run(
        [*pip, "wheel", "--no-deps", "-w", folder, source], capture_output=True, text=True
    )
    if built.returncode:
        pytest.skip(f"pip can't build a wheel here: {built.stderr.strip().splitlines()[-1]}")
    (wheel,) = folder.glob("*.whl")
    target = folder / "site"
    subprocess.run([*pip, "install", "--no-deps", "--target", target, wheel], check=True)
    return target


def run_outside(installed: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(installed), "JAX_PLATFORMS": "cpu"}
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True
    )


@pytest.mark.slow
def test_a_packaged_config_is_found_where_no_such_file_is(installed, tmp_path):
    done = run_outside(
        installed, tmp_path, "-m", "vtadl_jax.main", "--config", "configs/context_mdn.py", "--help"
    )
    assert done.returncode == 0, done.stderr
    assert "--config.model.context.windows=(1, 4, 8)" in done.stdout
    found = run_outside(
        installed, tmp_path, "-c", "import vtadl_jax.configs as c; print(c.__file__, c.__path__)"
    )
    assert str(ROOT) not in found.stdout


@pytest.mark.slow
def test_a_config_of_ones_own_starts_from_the_packages(installed, tmp_path):
    (tmp_path / "mine.py").write_text(OWN)
    done = run_outside(installed, tmp_path, "-m", "vtadl_jax.main", "--config", "mine.py", "--help")
    assert done.returncode == 0, done.stderr
    assert "--config.model.mdn.num_components=3" in done.stdout


@pytest.mark.slow
def test_the_installed_program_trains(installed, tmp_path):
    done = run_outside(
        installed,
        tmp_path,
        *("-m", "vtadl_jax.main", "--config", "configs/position_gaussian.py"),
        *("--config.data.source=synthetic", "--config.data.root=drawn"),
        *("--config.data.category=nut", "--config.image_size=64,64", "--workdir=w"),
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "w" / "report.html").is_file()
