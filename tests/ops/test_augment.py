"""Augmentation against its definition in float64 numpy and PIL; alignment, randomness, sharding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vtadl_jax.errors import UserError
from vtadl_jax.ops import augment as ops
from vtadl_jax.ops.augment import NO_AUGMENTATION, Augmentation, augment
from vtadl_jax.runtime import sharding

EVERYTHING = Augmentation(
    flip_horizontal=True,
    flip_vertical=True,
    rotation_degrees=30.0,
    brightness=0.2,
    contrast=0.3,
    saturation=0.4,
)
FLIPS = Augmentation(flip_horizontal=True, flip_vertical=True)
KEY = jax.random.key(7)
SHAPES = [(4, 24, 31, 3), (3, 33, 16, 1), (2, 1, 9, 3)]
run = jax.jit(augment, static_argnums=2)
rotate, rotate_masks = jax.jit(ops.rotate), jax.jit(ops.rotate_masks)


def noise(shape, seed=0, least=0, most=256):
    return np.random.default_rng(seed).integers(least, most, shape, dtype=np.uint8)


def sources_reference(degrees, height, width):
    """Source rows and columns, float64, of each pixel in a counter-clockwise rotation."""
    angle = np.deg2rad(float(degrees))
    y, x = np.mgrid[:height, :width] - np.array([height - 1, width - 1])[:, None, None] / 2
    rows = np.sin(angle) * x + np.cos(angle) * y + (height - 1) / 2
    columns = np.cos(angle) * x - np.sin(angle) * y + (width - 1) / 2
    return np.clip(rows, 0, height - 1), np.clip(columns, 0, width - 1)


def rotate_reference(image, degrees):
    """[H, W, C] → float64: every pixel is the weighted sum of the four around its source."""
    height, width = image.shape[:2]
    rows, columns = sources_reference(degrees, height, width)
    total = np.zeros(image.shape)
    for corner_y in (0, 1):
        for corner_x in (0, 1):
            y, x = np.floor(rows) + corner_y, np.floor(columns) + corner_x
            weight = (1 - abs(rows - y)) * (1 - abs(columns - x))
            y, x = np.minimum(y, height - 1).astype(int), np.minimum(x, width - 1).astype(int)
            total += weight[..., None] * image[y, x]
    return total


def augment_reference(image, draws):
    """One image [H, W, C], `draws` of one row → float64 before rounding."""
    mean = image.mean()
    if draws.flip_horizontal:
        image = image[:, ::-1]
    if draws.flip_vertical:
        image = image[::-1]
    image = rotate_reference(image, draws.degrees)
    if image.shape[2] == 3:
        grey = (image @ [0.299, 0.587, 0.114])[..., None]
        image = grey + (1 + draws.saturation) * (image - grey)
    return np.clip(mean + (1 + draws.contrast) * (image - mean) + draws.brightness, 0, 255)


def keys_of(count, key=KEY):
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jnp.arange(count))


def rows_of(options, batch_size):
    draws = jax.device_get(ops.draw(keys_of(64), options))  # one size: its parts compile once
    return [ops.Draws(*(np.float64(field[i]) for field in draws)) for i in range(batch_size)]


def closeness(images, expected):
    """Checks that every value is the rounded float64 one; near ties may round either way."""
    np.testing.assert_array_less(np.abs(np.float64(images) - expected), 0.51)


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
def test_everything_at_once_matches_the_definition(shape):
    images = noise(shape)
    got = run(keys_of(len(images)), images, EVERYTHING)
    assert got.dtype == jnp.uint8
    for image, result, draws in zip(images, got, rows_of(EVERYTHING, shape[0]), strict=True):
        closeness(result, augment_reference(image, draws))


@pytest.mark.parametrize(
    ("option", "channels"),
    [
        ("rotation_degrees", 1),
        ("brightness", 1),
        ("contrast", 3),
        ("saturation", 3),
        ("saturation", 1),
    ],
)
def test_each_option_alone_matches_the_definition(option, channels):
    options = Augmentation(**{option: 180.0 if option == "rotation_degrees" else 1.0})
    images = noise((5, 14, 9, channels))
    got = np.asarray(run(keys_of(len(images)), images, options))
    for image, result, draws in zip(images, got, rows_of(options, 5), strict=True):
        closeness(result, augment_reference(image, draws))
    assert np.any(got != images) == (option != "saturation" or channels == 3)


@pytest.mark.parametrize("degrees", [-180.0, -90.0, -31.7, -0.01, 0.0, 10.0, 45.0, 90.0, 179.9])
def test_rotation_is_precise_on_large_and_long_images(degrees):
    for shape in [(1, 512, 640, 1), (1, 20, 2048, 1)]:
        images = noise(shape)
        got = rotate(images, np.array([degrees], np.float32))[0]
        np.testing.assert_allclose(got, rotate_reference(images[0], degrees), atol=0.15)


@pytest.mark.parametrize("degrees", [-170.0, -20.0, 1.0, 45.0, 90.0, 133.0])
@pytest.mark.parametrize("size", [(64, 64), (41, 60)])
def test_rotation_is_pils_counter_clockwise_where_the_source_is_inside(degrees, size):
    images = noise((1, *size, 3))
    got = np.round(rotate(images, np.array([degrees], np.float32))[0])
    turned = Image.fromarray(images[0]).rotate(degrees, resample=Image.Resampling.BILINEAR)
    rows, columns = sources_reference(degrees, *size)
    inside = (rows > 0) & (rows < size[0] - 1) & (columns > 0) & (columns < size[1] - 1)
    assert inside.mean() > 0.4
    assert np.abs(got - np.array(turned))[inside].max() <= 1


def test_quarter_turns_are_exact_and_counter_clockwise():
    images = noise((4, 17, 17, 3))
    degrees = np.array([0.0, 90.0, 180.0, -90.0], np.float32)
    got, masks = np.round(rotate(images, degrees)), rotate_masks(images[..., 0], degrees)
    for i, image in enumerate(images):
        np.testing.assert_array_equal(got[i], np.rot90(image, i))
        np.testing.assert_array_equal(masks[i], np.rot90(image[..., 0], i))


def test_edge_values_are_repeated_outside():
    """A flat image stays flat, and stripes along the edges fill the corners."""
    flat = np.full((1, 15, 22, 3), 201, np.uint8)
    np.testing.assert_allclose(rotate(flat, np.array([37.0], np.float32)), 201, rtol=1e-6)
    framed = np.full((1, 40, 40, 1), 9, np.uint8)
    framed[:, [0, -1]] = framed[:, :, [0, -1]] = 80
    corners = np.asarray(rotate(framed, np.array([45.0], np.float32)))[
        0, [0, 0, -1, -1], [0, -1, 0, -1]
    ]
    np.testing.assert_allclose(corners, 80, rtol=1e-6)


@pytest.mark.slow
@given(
    size=st.sampled_from([(1, 1), (1, 13), (13, 1), (2, 2), (7, 40), (16, 16), (29, 23)]),
    degrees=st.floats(-180, 180, width=32),
    seed=st.integers(0, 9),
)
@settings(max_examples=60, deadline=None)
def test_rotation_of_images_and_masks_by_any_angle(size, degrees, seed):
    images = noise((1, *size, 3), seed)
    angle = np.array([degrees], np.float32)
    expected = rotate_reference(images[0], degrees)
    np.testing.assert_allclose(rotate(images, angle)[0], expected, atol=0.02)
    np.testing.assert_array_equal(rotate(images, 0 * angle), images)
    masks = (images[..., 0] > 128).astype(np.uint8)
    got = np.asarray(rotate_masks(masks, angle))
    rows, columns = sources_reference(degrees, *size)
    # Source coordinates halfway between two pixels may round either way.
    sure = (abs(rows % 1 - 0.5) > 1e-4) & (abs(columns % 1 - 0.5) > 1e-4)
    nearest = masks[0][np.floor(rows + 0.5).astype(int), np.floor(columns + 0.5).astype(int)]
    np.testing.assert_array_equal(got[0][sure], nearest[sure])
    assert got.dtype == np.uint8
    assert set(np.unique(got)) <= set(np.unique(masks))


def squares(count, height, width):
    """Bright squares at random positions on a dark background, and their masks."""
    rng = np.random.default_rng(3)
    masks = np.zeros((count, height, width), np.uint8)
    for mask in masks:
        y, x = rng.integers(0, height - 20), rng.integers(0, width - 20)
        mask[y : y + 20, x : x + 20] = 1
    return np.where(masks[..., None] == 1, 230, 20).astype(np.uint8).repeat(3, 3), masks


@pytest.mark.parametrize("rotation_degrees", [10.0, 180.0])
def test_masks_move_with_the_image(rotation_degrees):
    images, masks = squares(16, 72, 96)
    options = Augmentation(True, True, rotation_degrees)
    moved, moved_masks = (np.asarray(a) for a in run(keys_of(len(images)), images, options, masks))
    assert moved_masks.dtype == np.uint8
    assert set(np.unique(moved_masks)) == {0, 1}
    assert np.mean(moved_masks != masks) > 0.02
    bright, marked = moved[..., 0] > 125, moved_masks == 1
    union = (bright | marked).sum((1, 2))
    overlap = (bright & marked).sum((1, 2))[union > 0] / union[union > 0]
    assert len(overlap) > 12  # a square may leave the image
    assert overlap.min() > 0.9


def test_flips_are_exact_mirrors_of_image_and_mask():
    images, masks = noise((64, 6, 9, 3)), noise((64, 6, 9), 1, 0, 2)
    moved, moved_masks = run(keys_of(len(images)), images, FLIPS, masks)
    seen = set()
    for i, draws in enumerate(rows_of(FLIPS, 64)):
        step = (-1 if draws.flip_vertical else 1, -1 if draws.flip_horizontal else 1)
        np.testing.assert_array_equal(moved[i], images[i, :: step[0], :: step[1]])
        np.testing.assert_array_equal(moved_masks[i], masks[i, :: step[0], :: step[1]])
        seen.add(step)
    assert len(seen) == 4


def test_light_and_colour_do_not_change_masks():
    options = Augmentation(brightness=0.5, contrast=0.5, saturation=0.5)
    images, masks = noise((4, 8, 8, 3)), noise((4, 8, 8), 1, 0, 2)
    moved, moved_masks = run(keys_of(len(images)), images, options, masks)
    assert np.any(moved != images, axis=(1, 2, 3)).all()
    np.testing.assert_array_equal(moved_masks, masks)


@pytest.mark.parametrize("value", [0, 255])
def test_values_are_clipped_and_do_not_wrap(value):
    images = np.full((32, 2, 2, 1), value, np.uint8)
    got = np.asarray(run(keys_of(len(images)), images, Augmentation(brightness=1.0)))[:, 0, 0, 0]
    shifted = [value + draws.brightness for draws in rows_of(Augmentation(brightness=1.0), 32)]
    np.testing.assert_allclose(got, np.clip(shifted, 0, 255), atol=0.51)
    assert np.any(got == value)
    assert np.any(got != value)


def test_the_mean_of_a_large_bright_image_does_not_overflow():
    images = jnp.full((1, 2500, 2500, 3), 255, jnp.uint8)
    np.testing.assert_allclose(ops._mean(images), 255, rtol=1e-6)


@pytest.mark.slow
def test_draws_span_their_ranges():
    draws = jax.device_get(ops.draw(keys_of(4000), EVERYTHING))
    for field in draws[:2]:
        assert 0.45 < field.mean() < 0.55
    for field, width in zip(draws[2:], (30, 51, 0.3, 0.4), strict=True):
        assert np.abs(field).max() <= 1.00001 * width
        quartiles = np.quantile(field / width, [0, 0.25, 0.5, 0.75, 1])
        np.testing.assert_allclose(quartiles, np.linspace(-1, 1, 5), atol=0.06)
    assert np.abs(np.corrcoef(np.float64(draws)) - np.eye(6)).max() < 0.08


@pytest.mark.slow
def test_draws_depend_on_the_key_only():
    images = np.repeat(noise((1, 20, 20, 3), 0, 60, 200), 8, axis=0)
    got = np.asarray(run(keys_of(len(images)), images, EVERYTHING))
    np.testing.assert_array_equal(got, run(keys_of(len(images)), images, EVERYTHING))
    assert len(np.unique(got.reshape(8, -1), axis=0)) == 8
    other = np.asarray(run(keys_of(8, jax.random.key(8)), images, EVERYTHING))
    assert np.any(got != other, axis=(1, 2, 3)).all()
    for whole, part in zip(*(ops.draw(keys_of(n), EVERYTHING) for n in (64, 5)), strict=True):
        np.testing.assert_array_equal(whole[:5], part)


def test_an_option_does_not_change_the_draws_of_another():
    alone = ops.draw(keys_of(64), Augmentation(rotation_degrees=30.0))
    np.testing.assert_array_equal(alone.degrees, ops.draw(keys_of(64), EVERYTHING).degrees)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(8, 512, 512, 3), (24, 31, 64, 1)])
def test_one_device_and_eight_give_the_same_bits_without_communication(shape):
    images, masks = noise(shape), noise(shape[:3], 1, 0, 2)
    results = []
    for count in (1, 8):
        split = sharding.batch_sharding(sharding.make_mesh(count))
        program = jax.jit(augment, static_argnums=2, out_shardings=(split, split))
        arrays = jax.device_put((images, masks), split)
        keys = jax.device_put(keys_of(len(images)), split)
        compiled = program.lower(keys, arrays[0], EVERYTHING, arrays[1]).compile()
        text = compiled.as_text()
        assert not [op for op in ("all-gather", "all-reduce", "all-to-all") if op in text]
        results.append(compiled(keys, arrays[0], arrays[1]))
        assert len(results[-1][0].sharding.device_set) == count
    for one, eight in zip(*results, strict=True):
        np.testing.assert_array_equal(one, eight)


def test_off_is_the_identity_and_adds_no_operations():
    images, masks = noise((2, 5, 7, 3)), noise((2, 5, 7), 1, 0, 2)
    assert not NO_AUGMENTATION.active
    assert augment(keys_of(2), images, NO_AUGMENTATION) is images
    same = augment(keys_of(2), images, NO_AUGMENTATION, masks)
    assert same[0] is images
    assert same[1] is masks
    program = jax.make_jaxpr(augment, static_argnums=2)(keys_of(2), images, NO_AUGMENTATION)
    assert not program.eqns


@pytest.mark.parametrize("name", Augmentation.__dataclass_fields__)
def test_each_option_makes_it_active_and_equal_options_share_a_program(name):
    value = True if name.startswith("flip") else 0.5
    assert Augmentation(**{name: value}).active
    assert hash(Augmentation(**{name: value})) == hash(Augmentation(**{name: value}))


@pytest.mark.parametrize(
    ("name", "value", "remedy"),
    [
        ("rotation_degrees", 180.5, "use 0 (off) to 180"),
        ("rotation_degrees", -10.0, "use 0 (off) to 180"),
        ("brightness", 25, "use 0 (off) to 1"),
        ("contrast", float("nan"), "use 0 (off) to 1"),
        ("saturation", float("inf"), "use 0 (off) to 1"),
        ("saturation", "much", "use 0 (off) to 1"),
        ("brightness", True, "use 0 (off) to 1"),
        ("flip_vertical", 0.5, "use True or False"),
    ],
)
def test_a_value_out_of_range_is_named(name, value, remedy):
    with pytest.raises(UserError) as e:
        Augmentation(**{name: value})
    assert str(e.value) == f"data.augment.{name} {value!r}: {remedy}"
