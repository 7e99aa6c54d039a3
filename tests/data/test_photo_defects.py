"""Defects that are drawn onto photographs: masks, kinds, repeatability, and their folder."""

import numpy as np
import pytest
from PIL import Image

from vtadl_jax.data.decode import load_image, load_mask
from vtadl_jax.data.records import Record
from vtadl_jax.data.synthetic.drawn_set import draw_set
from vtadl_jax.data.synthetic.photo_defects import (
    KINDS,
    LEAST_PIXELS,
    LEVELS,
    SPECK,
    draw_defect,
)
from vtadl_jax.errors import UserError

SHAPES = [(64, 64, 3), (48, 80), (33, 33, 3)]


def photograph(seed: int, shape=(64, 64, 3)) -> np.ndarray:
    """Noise over a bright square, as a part on its background."""
    rng = np.random.default_rng(seed)
    image = rng.normal(90, 6, shape)
    image[shape[0] // 4 : -shape[0] // 4, shape[1] // 4 : -shape[1] // 4] += 70
    return image.clip(0, 255).astype(np.uint8)


def drawn(kind: str, seed: int, shape=(64, 64, 3)):
    clean = photograph(seed, shape)
    rng = np.random.default_rng([seed, 1])
    return clean, *draw_defect(clean, kind, rng, lambda _: photograph(seed + 1, shape))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", KINDS)
def test_the_mask_holds_what_changed_visibly(kind, shape):
    for seed in range(6):
        clean, image, mask = drawn(kind, seed, shape)
        assert image.dtype == np.uint8
        assert image.shape == clean.shape
        change = np.abs(image.astype(int) - clean).reshape(*shape[:2], -1).max(-1)
        assert not (change[~mask] >= LEVELS).any()
        assert (change[mask] >= LEVELS).sum() >= LEAST_PIXELS
        assert (change[mask] >= LEVELS).mean() > 0.3
        assert mask.mean() < 0.6


def test_no_region_is_a_speck():
    from scipy import ndimage

    for kind in KINDS:
        _, _, mask = drawn(kind, 3)
        regions, count = ndimage.label(mask, np.ones((3, 3)))
        assert ndimage.sum_labels(mask, regions, range(1, count + 1)).min() >= SPECK


def test_sizes_span_small_and_large_areas():
    shares = [drawn(kind, seed)[2].mean() for kind in ("tone", "pasted") for seed in range(40)]
    assert min(shares) < 0.01
    assert 0.1 < max(shares) <= 0.6


@pytest.mark.parametrize("kind", ["displaced", "smooth", "piece"])
def test_a_defect_that_cannot_be_seen_is_refused(kind):
    plain = np.full((40, 40), 128, np.uint8)
    with pytest.raises(UserError, match=f"{kind}.*not visible in any"):
        draw_defect(plain, kind, np.random.default_rng(0), lambda _: plain)


def records(folder, count, first=0):
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for i in range(first, first + count):
        path = folder / f"{i}.png"
        Image.fromarray(photograph(i, (40, 48, 3))).save(path)
        found.append(Record(path, None, 0, "good", f"good/{i}.png"))
    return found


def test_a_drawn_set_is_repeatable_and_kept(tmp_path):
    good, others = records(tmp_path / "in", 3), records(tmp_path / "in", 4, 3)
    first = draw_set(tmp_path / "a" / "drawn", good, others, 17, seed=5)
    again = draw_set(tmp_path / "b" / "drawn", good, others, 17, seed=5)
    assert {record.defect for record in first} == set(KINDS)
    assert len({record.name for record in first}) == 17
    for one, two in zip(first, again, strict=True):
        assert one.image.read_bytes() == two.image.read_bytes()
        mask = load_mask(one.mask)
        assert mask.any()
        assert mask.shape == load_image(one.image, 3).shape[:2]
    first[0].image.write_bytes(b"kept")
    draw_set(tmp_path / "a" / "drawn", good, others, 17, seed=5)
    assert first[0].image.read_bytes() == b"kept"
    other = draw_set(tmp_path / "c" / "drawn", good, others, 17, seed=6)
    assert other[1].image.read_bytes() != first[1].image.read_bytes()


def test_other_settings_or_another_folder_are_refused(tmp_path):
    good = records(tmp_path / "in", 2)
    draw_set(tmp_path / "set" / "drawn", good, good, 3)
    with pytest.raises(UserError, match="count, images differ"):
        draw_set(tmp_path / "set" / "drawn", good[:1], good, 4)
    (tmp_path / "full").mkdir()
    with pytest.raises(UserError, match="holds no drawn defects"):
        draw_set(tmp_path / "full", good, good, 3)


def test_nothing_is_left_of_a_set_that_failed(tmp_path):
    plain = np.full((40, 40), 128, np.uint8)
    good = [Record(plain, None, 0, "good", "plain")]
    with pytest.raises(UserError, match=r"plain: .* not visible"):
        draw_set(tmp_path / "set" / "drawn", good, good, 8)
    assert not list((tmp_path / "set").iterdir())
