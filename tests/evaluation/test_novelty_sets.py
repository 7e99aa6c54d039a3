"""On real data sets, no good test image is unlike the training images; gross failures are."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from vtadl_jax.data.decode import load_image
from vtadl_jax.data.transforms import Geometry
from vtadl_jax.evaluation.novelty import describe, fit_novelty, spread_over

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
SETS = {
    "mvtec_ad/bottle": 3,
    "mvtec_ad/pill": 3,
    "mvtec_ad/screw": 1,
    "mpdd/metal_plate": 3,
    "mtd/magnetic_tile": 1,
}
SIZE = (128, 128)


def load(folder: Path, channels: int, limit: int = 512) -> np.ndarray:
    files = sorted(folder.iterdir())
    chosen = [files[i] for i in spread_over(len(files), limit)]
    return np.stack([Geometry(SIZE).image(load_image(f, channels), channels) for f in chosen])


def frames(good: np.ndarray, other: np.ndarray) -> dict[str, np.ndarray]:
    """Gross failures, made of a good image [H, W, C] and one of another product."""
    rng = np.random.default_rng(0)
    blurred = Image.fromarray(good.squeeze()).filter(ImageFilter.GaussianBlur(4))
    middle = np.arange(len(good))[:, None, None] < len(good) // 2
    return {
        "black": np.zeros_like(good),
        "white": np.full_like(good, 255),
        "noise": rng.integers(0, 256, good.shape, np.uint8),
        "half": np.where(middle, 0, good),
        "one grey": np.full_like(good, round(good.mean())),
        "another product": other,
        "blurred": np.asarray(blurred).reshape(good.shape),
        "over-exposed": np.clip(2.5 * good.astype(float), 0, 255).astype(np.uint8),
        "shifted by a quarter": np.roll(good, good.shape[1] // 4, 1),
    }


# What a set's own variety hides: the tiles differ in light and sharpness, and fill the image.
HIDDEN = {
    "mvtec_ad/bottle": set(),
    "mvtec_ad/pill": set(),
    "mvtec_ad/screw": set(),
    "mpdd/metal_plate": set(),
    "mtd/magnetic_tile": {"blurred", "over-exposed", "shifted by a quarter"},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SETS)
def test_good_images_are_inside_and_gross_failures_outside(name):
    root, channels = DATA / name, SETS[name]
    if not root.is_dir():
        pytest.skip(f"the images of {name} are not there")
    good = load(root / "train/good", channels)
    fitted = fit_novelty(describe(good))
    new = load(root / "test/good", channels)
    assert fitted.amounts(describe(new)).max() < 1
    other = next(other for other in SETS if other[:8] != name[:8])
    foreign = load(DATA / other / "train/good", channels, limit=1)[0]
    found = {
        what: fitted.reason(describe(frame[None])[0])
        for what, frame in frames(good[3], foreign).items()
    }
    assert {what for what, reason in found.items() if reason is None} <= HIDDEN[name], found
