# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # From a folder of images to a report
#
# Train on good images, find defects in new ones. As it stands, the notebook draws its own parts
# and needs no upload; it takes less than a minute on two CPU cores. Set `GOOD` to use your
# images. The same file runs as a script: `python notebooks/own_images.py`.

# %%
import importlib.util
import subprocess
import sys

SOURCE = ""  # on Colab: "git+https://..." of your copy of the repository, or an uploaded wheel
if "google.colab" in sys.modules and importlib.util.find_spec("vtadl_jax") is None:
    if not SOURCE:
        raise SystemExit("set SOURCE to the repository's address, as git+https://...")
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", SOURCE], check=True)

# %%
import importlib
import json
import shlex
from pathlib import Path

import numpy as np
from PIL import Image

from vtadl_jax import Predictor
from vtadl_jax.data.synthetic.dataset import make_dataset, render_part
from vtadl_jax.report import colormap


def run(command: str) -> None:
    """Runs a command of the program in this process: `python -m` and the same text in a shell."""
    module, *arguments = shlex.split(command)
    print(f"python -m {command}", flush=True)
    code = importlib.import_module(module).main([module, *arguments])
    if code != 0:
        raise SystemExit(f"exit code {code}: {command}")


def show(picture: Image.Image, name: str) -> None:
    """Shows a picture below the cell; as a script, says its size."""
    if "ipykernel" in sys.modules:
        from IPython.display import display

        display(picture)
    else:
        print(f"{name}: {picture.width} x {picture.height} pixels")


# %% [markdown]
# ## Images
#
# `GOOD` is a folder of good images: PNG, JPEG, BMP, TIFF or WebP, any size, 30 or more for a
# start. `BAD`, a folder of defective ones, and `MASKS` (255 on the defect, 0 elsewhere, named
# like their images) are optional: with them, the report says how well defects are found. On
# Colab, upload the folders or mount Google Drive.

# %%
GOOD, BAD, MASKS = "", "", ""
NEW = []  # paths of images to judge at the end
WORKDIR = Path("runs/own-images")

if not GOOD:
    parts = make_dataset("drawn_parts", categories=("plate",), num_train=80, num_per_defect=4)
    GOOD = str(parts / "plate" / "train" / "good")
    BAD = str(parts / "plate" / "test" / "scratch")
    MASKS = str(parts / "plate" / "ground_truth" / "scratch")
    for number, defect in enumerate((None, "dent", "stain")):
        part, _ = render_part("plate", np.random.default_rng(100 + number), 128, defect, 0.15)
        NEW.append(f"new_{defect or 'good'}.png")
        Image.fromarray(part).save(NEW[-1])

# %% [markdown]
# ## Check the folder
#
# Unreadable files, odd sizes, duplicates, masks without images, 16-bit images that are nearly
# black: better found now than in the results.

# %%
more = f" --bad {shlex.quote(BAD)}" * bool(BAD) + f" --masks {shlex.quote(MASKS)}" * bool(MASKS)
run(f"vtadl_jax.prepare --check --source {shlex.quote(GOOD)}{more}")

# %% [markdown]
# ## Train
#
# `configs/demo.py` fits a Gaussian mixture over filter responses in seconds: enough to see that
# everything works. For your own images use the last line, `configs/best.py`: minutes on a CPU,
# and much better. The run keeps a tenth of the good images to calibrate its threshold, and tests
# on `BAD` and a part of the good ones.

# %%
CONFIG = "configs/demo.py --config.data.source=folder --config.data.category="
CONFIG += " --config.model.mdn.num_components=10"  # 40 take four times as long
# CONFIG = "configs/best.py"
fields = f"--config.data.root={shlex.quote(GOOD)} --config.data.test_fraction=0.2"
fields += f" --config.data.bad={shlex.quote(BAD)}" * bool(BAD)
fields += f" --config.data.masks={shlex.quote(MASKS)}" * bool(MASKS)
run(f"vtadl_jax.main --config {CONFIG} {fields} --workdir {WORKDIR}")

# %% [markdown]
# ## Results
#
# AUROC: how well the scores order good before defective images (pixels), 0.5 is chance, 1 is
# perfect. AU-PRO: how much of each defect is found at few false alarms. `at_threshold` counts the
# decisions at the threshold, which no defective image chose.

# %%
results = json.loads((WORKDIR / "results.json").read_text())
for name in ("num_train_images", "image_auroc", "pixel_auroc", "aupro"):
    print(f"{name:18} {results.get(name)}")
print("decisions         ", results["at_threshold"]["image"])

# %%
show(Image.open(WORKDIR / "overview.png"), "overview")

# %% [markdown]
# The whole report, with every image, its score and its heat map, a movable threshold and curves,
# is the file `report.html` in the workdir. It loads nothing from elsewhere: download it and open
# it in a browser.

# %%
print(WORKDIR / "report.html")

# %% [markdown]
# ## Choose a threshold
#
# Say how often a good part may be rejected. The held-out good images then set the threshold; with
# n of them, no rate below 1 / (n + 1) can be promised. Here n is 8, so 0.12 is about the lowest;
# with a thousand good images ask for 0.01. Later predictions use the threshold.

# %%
run(f"vtadl_jax.evaluate --workdir {WORKDIR} --image_false_alarm_rate=0.12")
results = json.loads((WORKDIR / "results.json").read_text())
print("decisions         ", results["at_threshold"]["image"])

# %% [markdown]
# ## Judge new images
#
# A predictor loads the run once and compiles once. It takes paths, bytes, arrays and PIL images.

# %%
predictor = Predictor.from_workdir(WORKDIR, batch_size=1)
for path in NEW:
    prediction = predictor(path)
    verdict = "defective" if prediction.is_defective else "good"
    print(f"{path}: score {prediction.score:.2f}, threshold {prediction.threshold:.2f}: {verdict}")
    if prediction.unlike_training:
        print("  ", prediction.unlike_training)

# %% [markdown]
# The last image beside its heat map, from black (normal) to bright (anomalous). A map has the
# size of its image.

# %%
if NEW:
    image = Image.open(NEW[-1]).convert("RGB")
    low, high = predictor.calibration.map_low, predictor.calibration.map_high
    heat = colormap.apply(prediction.anomaly_map, low, high)
    show(Image.fromarray(np.hstack([np.asarray(image), heat])), "image and heat map")
