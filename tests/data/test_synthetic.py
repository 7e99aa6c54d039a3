"""The procedural data set: its layout, its masks and what happens when the writing is cut short."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from vtadl_jax.data.synthetic import noise
from vtadl_jax.data.synthetic.dataset import (
    CATEGORIES,
    DEFECT_SIZES,
    DEFECTS,
    VISIBLE,
    make_dataset,
    parts,
    render_part,
)
from vtadl_jax.errors import UserError

SMALL: dict[str, Any] = {
    "image_size": 48,
    "num_train": 2,
    "num_test_good": 1,
    "num_per_defect": 3,
    "seed": 7,
}
SIZE = 96
GOLDEN = Path(__file__).with_name("golden_parts.png")
every_defect = pytest.mark.parametrize("defect", DEFECTS)
every_category = pytest.mark.parametrize("category", CATEGORIES)


def digests(root: Path) -> dict[str, str]:
    files = (path for path in root.rglob("*") if path.is_file())
    return {str(f.relative_to(root)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def rng(*key: int) -> np.random.Generator:
    return np.random.default_rng(list(key))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("synthetic") / "set", **SMALL)


@pytest.mark.slow
def test_layout_is_mvtec(dataset: Path) -> None:
    expected = {"dataset.json"}
    for category in CATEGORIES:
        expected |= {f"{category}/train/good/{i:03d}.png" for i in range(2)}
        expected |= {f"{category}/test/good/000.png"}
        for defect in DEFECTS:
            expected |= {f"{category}/test/{defect}/{i:03d}.png" for i in range(3)}
            expected |= {f"{category}/ground_truth/{defect}/{i:03d}_mask.png" for i in range(3)}
    assert set(digests(dataset)) == expected
    assert len(CATEGORIES) >= 3
    assert {"scratch", "dent", "stain", "missing"} <= set(DEFECTS)


def test_files_are_rgb_images_and_binary_masks_of_one_size(dataset: Path) -> None:
    for path in dataset.rglob("*.png"):
        with Image.open(path) as image:
            assert image.size == (48, 48)
            assert image.mode == ("L" if path.stem.endswith("_mask") else "RGB")
            if image.mode == "L":
                assert set(np.unique(np.asarray(image))) == {0, 255}


def test_settings_are_recorded(dataset: Path) -> None:
    settings = json.loads((dataset / "dataset.json").read_text())
    assert SMALL.items() <= settings.items()
    assert "version" in settings


@pytest.mark.slow
def test_same_arguments_give_the_same_bytes(dataset: Path, tmp_path: Path) -> None:
    assert digests(make_dataset(tmp_path / "again", **SMALL)) == digests(dataset)


def test_counts_do_not_change_other_images(dataset: Path, tmp_path: Path) -> None:
    counts = {"num_train": 1, "num_test_good": 2, "num_per_defect": 1}
    other = digests(make_dataset(tmp_path / "other", **(SMALL | counts)))
    first = digests(dataset)
    shared = (other.keys() & first.keys()) - {"dataset.json"}
    assert len(shared) == len(CATEGORIES) * (1 + 1 + 2 * len(DEFECTS))
    assert all(other[name] == first[name] for name in shared)


def test_seed_category_split_and_index_all_matter(dataset: Path, tmp_path: Path) -> None:
    other = digests(make_dataset(tmp_path / "other", **(SMALL | {"seed": 8, "num_per_defect": 0})))
    images = [v for k, v in digests(dataset).items() if "ground_truth" not in k]
    assert len(set(images)) == len(images)
    assert not set(images) & set(other.values())


@every_category
@every_defect
def test_change_is_inside_the_mask(category: str, defect: str) -> None:
    for i, fraction in enumerate(DEFECT_SIZES.values()):
        clean, none = render_part(category, rng(1, i), SIZE)
        broken, mask = render_part(category, rng(1, i), SIZE, defect, fraction)
        assert clean.shape == broken.shape == (SIZE, SIZE, 3)
        assert clean.dtype == broken.dtype == np.uint8
        assert mask.dtype == bool
        assert mask.any()
        assert not none.any()
        change = np.abs(clean.astype(int) - broken).max(axis=-1)
        # The part's shadow on the mat goes with a missing piece, a little beside the mask.
        reach = round(0.07 * SIZE) if defect == "missing" else 2
        outside = ~ndimage.binary_dilation(mask, iterations=reach)
        assert change[outside].max() <= 255 * VISIBLE + 2
        assert np.mean(change[mask] > 255 * VISIBLE - 2) > 0.6


@every_category
@every_defect
def test_defects_lie_on_the_part(category: str, defect: str) -> None:
    for i, fraction in enumerate(DEFECT_SIZES.values()):
        scene = parts.sample_scene(category, rng(2, i))
        cover = parts.pool(parts.coverage(parts.rasterise(scene, SIZE)))
        _, mask = render_part(category, rng(2, i), SIZE, defect, fraction)
        assert cover[mask].min() > 0.0
        assert cover[mask].mean() > 0.7


def test_missing_pieces_are_gone_from_the_part() -> None:
    raster = parts.rasterise(parts.sample_scene("gear", rng(3)), SIZE)
    removed = np.hypot(raster.xy[0] - 0.38, raster.xy[1]) - np.float32(0.06)
    clean, broken = (
        parts.shade(raster, edit) for edit in (parts.Edit(), parts.Edit(removed=removed))
    )
    gone = parts.pool(((removed < -0.01) & (raster.shape.distance < 0)).astype(np.float32)) == 1.0
    assert gone.any()
    assert broken[gone].mean() < 0.6 * clean[gone].mean()  # the dark mat instead of steel


@every_defect
def test_larger_defects_have_larger_masks(defect: str) -> None:
    keys = [(category, i) for category in CATEGORIES for i in range(3)]
    areas = [
        np.mean([render_part(c, rng(4, i), SIZE, defect, size)[1].sum() for c, i in keys])
        for size in DEFECT_SIZES.values()
    ]
    assert 1.3 * areas[0] < areas[1]
    assert 1.3 * areas[1] < areas[2]


@every_category
def test_good_images_vary_within_limits(category: str) -> None:
    images = np.stack([render_part(category, rng(5, i), 64)[0] for i in range(6)]).astype(float)
    brightness = images.mean(axis=(1, 2, 3))
    assert 0.01 < np.ptp(brightness) / brightness.mean() < 0.4
    assert images.std(axis=0).mean() > 2.0
    assert np.mean(images == 255) < 0.02


def sheet() -> np.ndarray:
    """[6·32, 6·32, 3] uint8: a row of images a category, good and each defect, above its masks."""
    rows = []
    for i, category in enumerate(CATEGORIES):
        drawn = [render_part(category, rng(9, i), 32, d, 0.2) for d in (None, *DEFECTS)]
        rows.append(np.hstack([image for image, _ in drawn]))
        masks = np.hstack([mask for _, mask in drawn])
        rows.append(np.repeat(masks[..., None], 3, axis=-1).astype(np.uint8) * 255)
    return np.vstack(rows)


def test_parts_are_drawn_as_in_version_0_1() -> None:
    # golden_parts.png is Image.fromarray(sheet()) of that version, on a CPU with AVX-512, where all
    # pixels are equal. Elsewhere exp and power may round otherwise.
    with Image.open(GOLDEN) as image:
        golden = np.asarray(image).astype(int)
    change = np.abs(sheet() - golden).reshape(len(CATEGORIES), 2, -1)  # images, masks of 0 and 255
    assert change[:, 0].max() <= 1
    assert np.mean(change != 0) < 1e-3


def test_whole_array_functions_equal_numpys() -> None:
    x, y = rng(6).standard_normal((2, 500, 300), dtype=np.float32)
    np.testing.assert_array_max_ulp(parts.length(x, y), np.hypot(x, y), maxulp=1)
    np.testing.assert_array_equal(parts._modulo(x, np.pi / 3), np.mod(x, np.pi / 3))


@pytest.mark.parametrize("sigma", [noise.WIDE - 1, noise.WIDE + 1, 120.0])
def test_wide_blurs_equal_direct_ones(sigma: float) -> None:
    field = rng(7).standard_normal((3, noise.TILE)).astype(np.float32)
    slow = ndimage.gaussian_filter1d(field, sigma, axis=1, mode="wrap")
    np.testing.assert_allclose(noise._blur_along(field, sigma, 1), slow, rtol=2e-7, atol=1e-9)
    np.testing.assert_array_equal(
        noise._blur_along(field.T, sigma, 0), noise._blur_along(field, sigma, 1).T
    )


def test_noise_is_periodic_and_cut_at_its_offset() -> None:
    x, y = rng(8).uniform(-1.5, 1.5, (2, 40, 30)).astype(np.float32)
    tile = noise.noise_tile("grain")
    column, row = ((v * noise.TEXELS_PER_SIDE).astype(int) for v in (x, y))
    slow = tile[(row + 7 * 300) % noise.TILE, (column + 300) % noise.TILE]
    np.testing.assert_array_equal(noise.sample_tile("grain", x, y, 300), slow)
    grid = noise.sample_tile("grain", x[:1], y[:, :1], 300)
    full = noise.sample_tile("grain", *np.broadcast_arrays(x[:1], y[:, :1]), 300)
    np.testing.assert_array_equal(grid, full)


def test_categories_are_added_one_by_one(dataset: Path, tmp_path: Path) -> None:
    root = make_dataset(tmp_path / "set", categories=("plate",), **SMALL)
    assert {path.name for path in root.iterdir()} == {"plate", "dataset.json"}
    plates = {path: path.stat().st_mtime_ns for path in root.rglob("plate/**/*")}
    make_dataset(root, categories=("plate", "nut"), **SMALL)
    assert {path: path.stat().st_mtime_ns for path in root.rglob("plate/**/*")} == plates
    expected = {k: v for k, v in digests(dataset).items() if not k.startswith("gear")}
    assert digests(root) == expected
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_a_category_that_another_process_drew_meanwhile_is_kept(tmp_path: Path) -> None:
    small: dict[str, Any] = SMALL | {"image_size": 32, "num_per_defect": 1, "num_train": 1}

    def race(items: Iterable[Any], total: int) -> Iterator[Any]:
        make_dataset(tmp_path / "set", categories=("nut",), **small)
        yield from items

    make_dataset(tmp_path / "set", categories=("nut", "plate"), **small, progress=race)
    assert digests(tmp_path / "set") == digests(
        make_dataset(tmp_path / "other", categories=("nut", "plate"), **small)
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "set"]


def test_a_finished_set_is_left_alone(dataset: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in dataset.rglob("*")}

    def never(*_: Any, **__: Any) -> Iterable[Any]:
        raise AssertionError("nothing is left to write")

    assert make_dataset(dataset, **SMALL, progress=never) == dataset
    assert {path: path.stat().st_mtime_ns for path in dataset.rglob("*")} == before


def test_other_settings_are_refused(dataset: Path) -> None:
    before = digests(dataset)
    with pytest.raises(UserError, match="other settings"):
        make_dataset(dataset, **(SMALL | {"seed": 8}))
    assert digests(dataset) == before


@pytest.mark.parametrize("name", ["photo.png", "dataset.json"])
def test_foreign_folders_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(UserError, match="not a synthetic data set") as caught:
        make_dataset(tmp_path, **SMALL)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "set").write_text("mine")
    with pytest.raises(UserError, match="not a synthetic data set"):
        make_dataset(tmp_path / "set", **SMALL)
    assert (tmp_path / "set").read_text() == "mine"


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_interruption_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    def stop(items: Iterable[Any], total: int) -> Iterator[Any]:
        for number, item in enumerate(items):
            if number == total // 20:
                assert any(tmp_path.iterdir())  # it had begun to write
                assert not (tmp_path / "set").exists()
                raise error
            yield item

    with pytest.raises(error):
        make_dataset(tmp_path / "set", **SMALL, progress=stop)
    assert not any(tmp_path.iterdir())


def test_progress_sees_every_image(tmp_path: Path) -> None:
    seen = []

    def count(items: Iterable[Any], total: int) -> Iterator[Any]:
        for item in items:
            seen.append(total)
            yield item

    make_dataset(
        tmp_path / "set",
        image_size=32,
        num_train=1,
        num_test_good=0,
        num_per_defect=1,
        progress=count,
    )
    total = len(CATEGORIES) * (1 + len(DEFECTS))
    assert seen == [total] * total


@pytest.mark.parametrize(
    ("name", "value"),
    [("image_size", 8), ("num_train", 0), ("num_per_defect", -1), ("seed", -1)],
)
def test_impossible_arguments_are_refused(tmp_path: Path, name: str, value: int) -> None:
    with pytest.raises(UserError, match=f"{name} {value}"):
        make_dataset(tmp_path / "set", **(SMALL | {name: value}))
    assert not any(tmp_path.iterdir())


def test_unknown_names_and_invisible_defects_are_refused() -> None:
    with pytest.raises(UserError, match="'bolt'"):
        render_part("bolt", rng(0), 32)
    with pytest.raises(UserError, match="'gaer' is not drawn here: did you mean 'gear'"):
        make_dataset("nowhere", categories=("gaer",))
    with pytest.raises(UserError, match="'hole'"):
        render_part("gear", rng(0), 32, "hole")
    with pytest.raises(UserError, match="cannot be seen"):
        render_part("gear", rng(0), 32, "dent", 1e-4)
