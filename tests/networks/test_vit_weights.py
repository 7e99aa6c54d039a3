"""Pretrained encoders: same tokens as the original network, at any grid and patch size."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.factory import tiny_config, with_fields
from tests.networks.vit_files import (
    DEPTH,
    GRID,
    HEADS,
    MLP,
    OPTIONS,
    PATCH,
    WIDTH,
    google_arrays,
    reference,
    timm_arrays,
)
from vtadl_jax.errors import UserError
from vtadl_jax.experiment import make_detector
from vtadl_jax.networks import resample
from vtadl_jax.networks.vit import PatchViT
from vtadl_jax.networks.vit_weights import load_encoder, read_encoder
from vtadl_jax.training.assembly import load_pretrained
from vtadl_jax.training.setup import make_setup, read_pretrained
from vtadl_jax.training.stored import CONFIG, save_config
from vtadl_jax.weights.files import read_arrays


def encoder(patch=PATCH, **options):
    sizes = {
        "patch_size": patch,
        "width": WIDTH,
        "depth": DEPTH,
        "num_heads": HEADS,
        "mlp_dim": MLP,
    }
    return PatchViT(**(sizes | OPTIONS | options))


def load(path, *, patch=PATCH, grid=(GRID, GRID), channels=3, pixels="unit", **options):
    """(our encoder, its parameters from the file)."""
    network = encoder(patch, **options)
    images = jnp.zeros((1, grid[0] * patch, grid[1] * patch, channels))
    like = jax.eval_shape(network.init, jax.random.key(0), images)["params"]
    return network, load_encoder(like, read_arrays(path), grid, patch, pixels)


def save(path, arrays):
    np.savez(path, **arrays)
    return path


def images_of(height, width=None, seed=1):
    return np.random.default_rng(seed).uniform(-1, 1, (2, height, width or height, 3))


FILES = {
    "timm": lambda timm: timm,
    "google": google_arrays,
    "google, stacked": lambda timm: google_arrays(timm, stacked=True, prefix="params/"),
    "google, an old optimiser's": lambda timm: google_arrays(timm, prefix="opt/target/"),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", FILES)
def test_tokens_equal_those_of_the_original_network(tmp_path, kind):
    timm = timm_arrays()
    network, params = load(save(tmp_path / "vit.npz", FILES[kind](timm)))
    images = images_of(PATCH * GRID)
    got = network.apply({"params": params}, images.astype(np.float32))
    np.testing.assert_allclose(got, reference(timm, images), rtol=1e-4, atol=1e-5)


def test_tokens_are_those_of_torch(tmp_path):
    torch = pytest.importorskip("torch", reason="torch is not installed (extra torch)")
    timm = timm_arrays()
    path = tmp_path / "vit.pt"
    torch.save({"model": {name: torch.tensor(array) for name, array in timm.items()}}, path)
    network, params = load(path)
    images = images_of(PATCH * GRID).astype(np.float32)
    t = {name: torch.tensor(array) for name, array in timm.items()}
    F = torch.nn.functional
    x = F.conv2d(
        torch.tensor(images.transpose(0, 3, 1, 2).copy()), t["patch_embed.proj.weight"],
        t["patch_embed.proj.bias"], stride=PATCH,
    ).flatten(2).transpose(1, 2)  # fmt: skip
    x = torch.cat([t["cls_token"].expand(2, -1, -1), x], 1) + t["pos_embed"]
    for i in range(DEPTH):
        p = {n.removeprefix(f"blocks.{i}."): a for n, a in t.items()}
        h = F.layer_norm(x, (WIDTH,), p["norm1.weight"], p["norm1.bias"], 1e-6)
        qkv = F.linear(h, p["attn.qkv.weight"], p["attn.qkv.bias"])
        q, k, v = qkv.reshape(2, -1, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4)
        h = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape)
        x = x + F.linear(h, p["attn.proj.weight"], p["attn.proj.bias"])
        h = F.layer_norm(x, (WIDTH,), p["norm2.weight"], p["norm2.bias"], 1e-6)
        h = F.gelu(F.linear(h, p["mlp.fc1.weight"], p["mlp.fc1.bias"]))
        x = x + F.linear(h, p["mlp.fc2.weight"], p["mlp.fc2.bias"])
    want = F.layer_norm(x, (WIDTH,), t["norm.weight"], t["norm.bias"], 1e-6)[:, 1:]
    got = network.apply({"params": params}, images)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_standardised_pixels_and_grey_images_are_absorbed(tmp_path):
    timm = timm_arrays()
    path = save(tmp_path / "vit.npz", timm)
    grey = images_of(PATCH * GRID)[..., :1]
    mean, deviation = resample.IMAGENET
    want = reference(timm, ((np.repeat(grey, 3, -1) + 1) / 2 - mean) / deviation)
    for channels in (1, 3):
        network, params = load(path, channels=channels, pixels="imagenet")
        images = np.repeat(grey, channels, -1).astype(np.float32)
        got = network.apply({"params": params}, images)
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


def test_layer_scale_becomes_part_of_the_weights(tmp_path):
    plain, rng = timm_arrays(), np.random.default_rng(3)
    scaled, folded = dict(plain), dict(plain)
    for i in range(DEPTH):
        for scale, layer in (("ls1", "attn.proj"), ("ls2", "mlp.fc2")):
            gamma = scaled[f"blocks.{i}.{scale}.gamma"] = rng.standard_normal(WIDTH, np.float32)
            name = f"blocks.{i}.{layer}"
            folded[f"{name}.weight"] = plain[f"{name}.weight"] * gamma[:, None]
            folded[f"{name}.bias"] = plain[f"{name}.bias"] * gamma
    got, want = (load(save(tmp_path / f"{i}.npz", a))[1] for i, a in enumerate((scaled, folded)))
    jax.tree.map(np.testing.assert_array_equal, got, want)


@pytest.mark.slow
@pytest.mark.parametrize("patch", [8, 12, 6])
def test_an_enlarged_patch_has_the_token_of_the_original_patch(patch):
    rng = np.random.default_rng(0)
    kernel = rng.standard_normal((4, 4, 3, 8)).astype(np.float32)
    small = rng.standard_normal((4, 4, 3)).astype(np.float32)
    large = jax.image.resize(small, (patch, patch, 3), "cubic")
    got = np.einsum("pqc,pqcd->d", large, resample.resize_patch_kernel(kernel, patch))
    np.testing.assert_allclose(got, np.einsum("pqc,pqcd->d", small, kernel), rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_a_smaller_patch_keeps_flat_patches(tmp_path):
    kernel = np.random.default_rng(0).standard_normal((8, 8, 3, 5)).astype(np.float32)
    # No 4 × 4 kernel can distinguish all 8 × 8 patches, but it can distinguish flat ones.
    got = resample.resize_patch_kernel(kernel, 4)
    assert got.shape == (4, 4, 3, 5)
    assert np.isfinite(got).all()
    assert np.abs(got).max() < 10 * np.abs(kernel).max()


def test_positions_are_resampled_as_torch_does():
    torch = pytest.importorskip("torch", reason="torch is not installed (extra torch)")
    table = np.random.default_rng(0).standard_normal((1, 1 + 49, 6)).astype(np.float32)
    for grid in ((4, 4), (10, 12), (7, 3)):
        got = resample.resize_positions(table, grid, 1)
        image = torch.tensor(table[:, 1:]).reshape(1, 7, 7, 6).permute(0, 3, 1, 2)
        want = torch.nn.functional.interpolate(image, grid, mode="bicubic", antialias=True)
        np.testing.assert_array_equal(got[:, :1], table[:, :1])
        want = want.permute(0, 2, 3, 1).reshape(1, -1, 6)
        np.testing.assert_allclose(got[:, 1:], want, rtol=1e-3, atol=1e-4)
    assert resample.resize_positions(table, (7, 7), 1) is table


@pytest.mark.slow
def test_an_enlarged_image_and_patch_give_nearly_the_original_tokens(tmp_path):
    """A smooth image twice as large, patches twice as large: the same tokens."""
    timm = timm_arrays()
    path = save(tmp_path / "vit.npz", google_arrays(timm))
    images = images_of(2, seed=5)
    small = np.asarray(jax.image.resize(images, (2, 20, 20, 3), "cubic"))
    cut = small.reshape(2, 5, 4, 5, 4, 3)
    large = jax.image.resize(cut, (2, 5, 8, 5, 8, 3), "cubic").reshape(2, 40, 40, 3)
    network, params = load(path, patch=8)
    got = network.apply({"params": params}, large)
    np.testing.assert_allclose(got, reference(timm, small), rtol=1e-3, atol=1e-3)
    wide, params = load(path, grid=(5, 9))
    assert wide.apply({"params": params}, np.zeros((1, 20, 36, 3), np.float32)).shape == (1, 45, 16)


def test_a_class_token_without_position_gets_none(tmp_path):
    timm = timm_arrays()
    timm["pos_embed"][:, 0] = 0
    short = timm | {"pos_embed": timm["pos_embed"][:, 1:]}
    got, want = (load(save(tmp_path / f"{i}.npz", a))[1] for i, a in enumerate((short, timm)))
    jax.tree.map(np.testing.assert_array_equal, got, want)


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({}, {"depth": 1}, "it has 2 layers: --config.model.vit.depth=2"),
        ({}, {"depth": 3}, "blocks.2.attention_out.bias is missing"),
        ({}, {"width": 8}, "patch_embed.proj.bias is 16 wide, ours 8: --config.model.vit.width=16"),
        ({}, {"mlp_dim": 20}, r"blocks.0.mlp.fc1.bias is \[24\], ours \[20\]"),
        (
            {},
            {"qkv_bias": False},
            "qkv.bias has no counterpart here: --config.model.vit.qkv_bias=True",
        ),
        (
            {},
            {"final_norm": False},
            "norm.bias has no counterpart here: --config.model.vit.final_norm=True",
        ),
        (
            {},
            {"class_token": False},
            "cls_token has no counterpart here: --config.model.vit.class_token=True",
        ),
        ({"norm.weight": None}, {}, "norm.scale is missing: --config.model.vit.final_norm=False"),
        ({"dist_token": np.zeros((1, 1, 16))}, {}, "dist_token has no counterpart here"),
        ({"pos_embed": np.zeros((26, 16))}, {}, r"pos_embed is \[26, 16\], ours \[1, 26, 16\]"),
        (
            {"pos_embed": np.zeros((1, 24, 16))},
            {},
            r"pos_embed is \[1, 24, 16\], ours \[1, 26, 16\]",
        ),
        ({"patch_embed.proj.weight": np.zeros((16, 1, 4, 4))}, {}, "patch_embed.proj.weight is"),
        ({"patch_embed.proj.weight": np.zeros((16, 3, 4, 8))}, {}, "patch_embed.proj.weight is"),
        ({"blocks.0.ls1.gamma": np.zeros(7)}, {}, "blocks.0.ls1.gamma has no counterpart here"),
        ({"norm.bias": np.full(16, np.nan)}, {}, "norm.bias has values that are not finite"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, change, options, message):
    arrays = {n: a for n, a in (timm_arrays() | change).items() if a is not None}
    path = save(tmp_path / "vit.npz", arrays)
    with pytest.raises(UserError, match=message):
        load(path, **options)


def test_heads_of_googles_files_are_checked(tmp_path):
    path = save(tmp_path / "vit.npz", google_arrays(timm_arrays()))
    with pytest.raises(UserError, match=r"attention_out|MultiHeadDotProductAttention_1"):
        load(path, num_heads=2)


def test_other_files_are_rejected():
    with pytest.raises(UserError, match="neither Google's ViT"):
        read_encoder({"conv.weight": np.zeros(3)})


def start_config(path, **fields):
    sizes = {"width": WIDTH, "depth": DEPTH, "num_heads": HEADS, "mlp_dim": MLP}
    options = {f"model__vit__{name}": value for name, value in (sizes | OPTIONS).items()}
    return tiny_config(init_from=str(path), **options, **fields)


@pytest.mark.slow
def test_a_run_starts_from_the_file_and_only_its_encoder(tmp_path):
    path = save(tmp_path / "vit.npz", timm_arrays())
    config = start_config(path)
    detector = make_detector(config)
    plain = detector.init(jax.random.key(0))
    arrays = read_pretrained(config, detector)
    started = load_pretrained(detector, plain, arrays, config.init_from)
    shapes = jax.eval_shape(detector.init, jax.random.key(0))
    shapes = load_pretrained(detector, shapes, arrays, config.init_from)  # resizes positions, too
    assert jax.tree.map(np.shape, shapes) == jax.tree.map(np.shape, started)
    assert jax.tree.structure(started) == jax.tree.structure(plain)
    assert jax.tree.map(np.shape, started) == jax.tree.map(np.shape, plain)
    blocks = started["params"]["encoder"]["blocks"]
    want = timm_arrays()["blocks.1.mlp.fc1.weight"].T
    np.testing.assert_array_equal(blocks["mlp_in"]["kernel"][1], want)
    for part in ("decoder", "mixture"):
        jax.tree.map(np.testing.assert_array_equal, started["params"][part], plain["params"][part])
    other = tiny_config(detector="autoencoder", init_from=str(path))
    with pytest.raises(UserError, match="detector 'autoencoder' takes no pretrained weights"):
        read_pretrained(other, make_detector(other))


def test_a_file_that_does_not_fit_is_named_with_what_is_wrong(tmp_path):
    path = save(tmp_path / "vit.npz", timm_arrays())
    config = with_fields(start_config(path), model__vit__depth=3)
    with pytest.raises(UserError, match=r"^init_from .*vit\.npz: blocks\.2\..* is missing"):
        read_pretrained(config, make_detector(config))


def test_the_file_is_read_at_a_fresh_start_only(finished, tmp_path):
    config, workdir, _ = finished
    config = with_fields(config, init_from=str(tmp_path / "none.npz"))
    with pytest.raises(UserError, match=r"none\.npz: no such file"):
        make_setup(config, tmp_path / "new")
    assert not (tmp_path / "new").exists()
    continued = tmp_path / "run"
    shutil.copytree(workdir, continued)
    save_config(config, continued / CONFIG)
    assert make_setup(config, continued).assembly.pretrained is None
