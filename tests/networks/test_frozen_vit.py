"""Frozen Vision Transformers: features as of the programs that made the files; wrong files."""

import dataclasses
import functools
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.factory import tiny_config
from tests.networks import encoder_references
from tests.networks.encoder_files import (
    CASES,
    PATCH,
    READ,
    SIZES,
    WIDTH,
    arrays_of,
    images_of,
)
from vtadl_jax.errors import UserError
from vtadl_jax.evaluation.predictor import Predictor
from vtadl_jax.experiment import make_detector
from vtadl_jax.networks import frozen_vit, frozen_vit_files, frozen_vit_load
from vtadl_jax.networks.features import EXTRACTORS, EncoderOptions, FeatureOptions, make_features
from vtadl_jax.networks.frozen_vit import Reading, middle_blocks, weight_shapes
from vtadl_jax.networks.frozen_vit_table import VITS
from vtadl_jax.networks.resample import RESIZES, bicubic_matrix, resize_table
from vtadl_jax.run import run
from vtadl_jax.weights.files import read_arrays

READING = Reading(READ, norm=True, combine="concat")
IMAGES = images_of(SIZES[0])
V2 = CASES["dinov2"]


def load(case, size=SIZES[0], channels=3, reading=READING, arrays=None):
    grid = (size[0] // PATCH, size[1] // PATCH)
    arrays = arrays_of(case) if arrays is None else arrays
    return frozen_vit_load.load(arrays, "small", case.vit, grid, channels, reading)


@functools.cache
def _compiled(vit, reading, dtype):
    return jax.jit(lambda w, x: frozen_vit.image_features(w, x, vit, reading, dtype))


def features(case, images=IMAGES, reading=READING, dtype="float32", arrays=None):
    size, channels = images.shape[1:3], images.shape[-1]
    weights = load(case, size, channels, reading, arrays)
    # The program does not depend on how the file's table is resized and its pixels standardized.
    vit = dataclasses.replace(case.vit, resize="", pixels="", layer_scale=False)
    return np.asarray(_compiled(vit, reading, dtype)(weights, images))


@pytest.fixture(scope="module")
def golden():
    return np.load(encoder_references.GOLDEN)


@pytest.mark.parametrize("name", CASES)
def test_features_are_those_of_the_program_that_made_the_file(name, golden):
    for i, size in enumerate(SIZES):
        got = features(CASES[name], images_of(size))
        np.testing.assert_allclose(got, golden[f"{name}/{i}"], rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_golden_features_are_those_that_the_program_computes_today(name, golden):
    for package in ("torch", "timm", "transformers"):
        pytest.importorskip(package, reason=f"{package} is not installed (extra bench)")
    for i, size in enumerate(SIZES):
        got = encoder_references.features(CASES[name], images_of(size))
        np.testing.assert_allclose(got, golden[f"{name}/{i}"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("kind", "old", "new"), encoder_references.AXES)
def test_tables_are_resized_as_torch_does(kind, old, new, golden):
    antialias, offset = RESIZES[kind]
    got = bicubic_matrix(old, new, antialias, offset)
    np.testing.assert_allclose(got, golden[f"bicubic/{kind}/{old}/{new}"], atol=1e-6)
    np.testing.assert_allclose(got.sum(1), 1, atol=1e-12)


def test_a_table_of_the_images_grid_stays_as_it_is():
    table = np.random.default_rng(0).normal(size=(25, 3))
    for kind in RESIZES:
        np.testing.assert_array_equal(resize_table(table, (5, 5), kind), table)
        assert resize_table(table, (1, 25), kind).shape == (25, 3)


def test_todays_names_of_hugging_face_are_those_of_its_files():
    for case in CASES.values():
        if case.program == "huggingface":
            new = load(case, arrays=arrays_of(case, modules=True))
            jax.tree.map(np.testing.assert_array_equal, load(case), new)


@pytest.mark.parametrize("prefix", ["module.", "module.backbone.", "teacher.backbone."])
def test_prefixes_and_other_arrays_are_left_out_and_named(prefix, capsys):
    arrays = {prefix + name: array for name, array in arrays_of(V2).items()}
    arrays["module.dino_head.mlp.weight"] = np.zeros((2, 2), np.float32)
    if prefix.startswith("teacher"):  # the student is not read
        arrays |= {f"student.{n.removeprefix('teacher.')}": a + 1 for n, a in arrays.items()}
    jax.tree.map(np.testing.assert_array_equal, load(V2), load(V2, arrays=arrays))
    capsys.readouterr()
    frozen_vit_files._say_once.cache_clear()
    load(V2, arrays=arrays)
    load(V2, arrays=arrays)  # a run reads its file twice
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("note: arrays that the encoder does not use are left out (")


def test_blocks_are_averaged_or_concatenated_with_or_without_the_norm(golden):
    raw = features(V2, reading=Reading((0, 1, 2), False, "concat"))
    each = np.split(raw, 3, -1)
    mean = features(V2, reading=Reading((1, 2), False, "mean"))
    np.testing.assert_allclose(mean, (each[1] + each[2]) / 2, rtol=1e-5, atol=1e-5)
    norm = load(V2)["norm"]
    standardized = [(x - x.mean(-1, keepdims=True)) / x.std(-1, keepdims=True) for x in each]
    normed = [x * norm["scale"] + norm["bias"] for x in standardized]
    both = np.concatenate([normed[0], normed[2]], -1)
    np.testing.assert_allclose(both, golden["dinov2/0"], rtol=1e-4, atol=1e-4)
    few = load(V2, reading=Reading((0,), False))  # later blocks are not kept
    assert few["blocks"]["qkv"]["bias"].shape == (1, 3 * WIDTH)
    assert "norm" not in few


def test_grey_images_stand_for_three_equal_channels():
    grey = images_of(SIZES[0], 1)
    want = features(V2, np.repeat(grey, 3, -1))
    np.testing.assert_allclose(features(V2, grey), want, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dinov2", "dinov3_swiglu"])
def test_products_in_bfloat16_are_close(name):
    want = features(CASES[name])
    got = features(CASES[name], dtype="bfloat16")
    assert got.dtype == np.float32
    assert 0 < np.abs(got - want).mean() < 0.05 * np.abs(want).mean()


@pytest.mark.parametrize("name", ["dinov2", "dinov3_swiglu"])
def test_all_products_of_float32_have_its_accuracy(name):
    vit = CASES[name].vit
    weights = jax.eval_shape(lambda: frozen_vit.empty_weights(vit, (20, 20), 3, READING))
    images = jax.ShapeDtypeStruct((1, 20 * PATCH, 20 * PATCH, 3), np.uint8)
    text = _compiled(vit, READING, "float32").lower(weights, images).as_text()
    products = [line for line in text.splitlines() if "stablehlo.dot_general" in line]
    assert len(products) >= 7  # more than 256 tokens: attention in blocks of queries, too
    assert all("precision = [HIGHEST, HIGHEST]" in line for line in products)


@pytest.mark.parametrize("name", ["dino_vits16", "resnet18", "efficientnet_lite2"])
@pytest.mark.parametrize("detector", ["filter_mixture", "context_mdn", "patch_memory"])
def test_detectors_of_features_take_any_encoder(detector, name):
    fields = {"model__context__windows": (1, 2)} if detector == "context_mdn" else {}
    config = tiny_config(detector=detector, image_size=(48, 64), model__features=name, **fields)
    made = make_detector(config)
    variables = jax.eval_shape(made.init, jax.random.key(0))
    assert made.pretrained_required
    scores = jax.eval_shape(made.score, variables, jax.ShapeDtypeStruct((2, 48, 64, 3), np.uint8))
    assert scores.anomaly_map.shape == (2, 48, 64)


def test_a_file_without_biases_of_query_key_and_value_has_zeros():
    case = CASES["dinov3_timm"]
    arrays = {n: a for n, a in arrays_of(case).items() if not n.endswith(("q_bias", "v_bias"))}
    assert not load(case, arrays=arrays)["blocks"]["qkv"]["bias"].any()
    arrays |= {n: a for n, a in arrays_of(case).items() if n.startswith("blocks.0")}
    with pytest.raises(UserError, match=r"blocks\.1\.qkv\.bias is missing"):
        load(case, arrays=arrays)


def test_the_authors_periods_are_used():
    arrays = arrays_of(CASES["dinov3"])
    rope = load(CASES["dinov3"], arrays=arrays)["rope"]
    arrays["rope_embed.periods"] = np.array([1, 10], np.float32)  # 100^(i / 2)
    jax.tree.map(np.testing.assert_array_equal, rope, load(CASES["dinov3"], arrays=arrays)["rope"])
    arrays["rope_embed.periods"] = np.array([1, 5], np.float32)
    assert np.abs(load(CASES["dinov3"], arrays=arrays)["rope"]["cos"] - rope["cos"]).max() > 0.1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.pop("blocks.1.norm2.bias"), r"blocks\.1\.norm_mlp\.bias is missing"),
        (lambda a: a.pop("blocks.0.mlp.fc1.weight"), "holds no whole Vision Transformer"),
        (
            lambda a: a.update({"blocks.2.attn.proj.weight": np.zeros((16, 7))}),
            r"blocks\.2\.attn\.proj\.weight is \[7, 16\], not \[16, 16\]",
        ),
        (lambda a: a["norm.weight"].fill(np.nan), r"norm\.weight has values that are not finite"),
        (lambda a: a["pos_embed"].fill(np.inf), "pos_embed has values that are not finite"),
        (lambda a: a.update(pos_embed=np.zeros((1, 24, 16))), "not a square grid"),
        (lambda a: a["cls_token"].fill(np.nan), "cls_token has values that are not finite"),
        (lambda a: a.update(extra=np.zeros(3)), "extra has no counterpart here"),
        (lambda a: a.pop("patch_embed.proj.weight"), "holds no Vision Transformer"),
    ],
)
def test_a_damaged_file_is_refused_in_one_line(change, message):
    arrays = arrays_of(V2)
    change(arrays)
    with pytest.raises(UserError, match=message) as caught:
        load(V2, arrays=arrays)
    assert len(str(caught.value).splitlines()) == 1


def test_damaged_registers_and_biases_are_refused():
    case = CASES["dinov3"]
    for name, part in (("storage_tokens", slice(None)), ("blocks.1.attn.qkv.bias", slice(0, 16))):
        arrays = arrays_of(case)
        arrays[name].reshape(-1)[part] = np.nan
        with pytest.raises(UserError, match=f"^{name} has values that are not finite"):
            load(case, arrays=arrays)
    arrays = arrays_of(case)
    arrays["blocks.1.attn.qkv.bias"][WIDTH : 2 * WIDTH] = np.nan  # masked
    jax.tree.map(np.testing.assert_array_equal, load(case, arrays=arrays), load(case))


def test_the_number_of_weights_is_that_of_the_published_file():
    """22,056,192 in the 222 arrays of a ViT-S/14; LayerScale and one row are folded in."""
    vit = VITS["dinov2_vits14"]
    shapes = weight_shapes(vit, (37, 37), 3, Reading(tuple(range(12))))
    count = sum(np.prod(s) for s in jax.tree.leaves(shapes, is_leaf=lambda s: isinstance(s, tuple)))
    assert count == 22_056_192 - 2 * 12 * 384 - 384


def test_middle_blocks_are_within_every_encoder():
    assert middle_blocks(12) == (5, 6, 7, 8)
    assert middle_blocks(24) == tuple(range(10, 18))
    assert middle_blocks(40) == tuple(range(16, 30))
    for vit in VITS.values():
        assert vit.width % vit.heads == 0
        assert 0 < len(middle_blocks(vit.depth)) < vit.depth


@pytest.mark.parametrize(
    ("fields", "size", "message"),
    [
        ({"features": "dinov2_vits14"}, (100, 112), r"multiples of 14: use \(98, 112\)"),
        ({"features": "dinov2_vits15"}, (112, 112), r"did you mean dinov2_vits1.*use one of"),
        (
            {"features": "dinov2_vits14", "encoder": EncoderOptions(blocks=(3, 12))},
            (112, 112),
            r"model\.encoder\.blocks \(3, 12\): give one or more, growing, from 0 to 11",
        ),
        (
            {"encoder": EncoderOptions(norm=False)},
            (112, 112),
            r"model\.encoder\.norm False: not read with model\.features 'filters': leave it",
        ),
        (
            {"features": "efficientnet_lite0", "encoder": EncoderOptions(combine="concat")},
            (112, 112),
            r"model\.encoder\.combine 'concat': not read with model\.features 'efficientnet",
        ),
    ],
)
def test_options_that_do_not_fit_are_refused(fields, size, message):
    with pytest.raises(UserError, match=message):
        make_features(FeatureOptions(**fields), 9, size, 3)


def test_an_extractor_has_the_shapes_that_it_loads():
    for name in ("dinov2_vits14_reg", "dinov3_vits16", "vit_small_patch16"):
        options = FeatureOptions(features=name, encoder=EncoderOptions((1, 3), True, "concat"))
        made = make_features(options, 10**6, (112, 224), 1, "bfloat16")
        patch = VITS[name].patch
        assert made.grid == (112 // patch, 224 // patch)
        assert made.width == made.dim == 2 * 384
        empty = jax.eval_shape(made.frozen)
        assert empty["blocks"]["qkv"]["kernel"].shape == (4, 384, 3 * 384)
        images = jax.ShapeDtypeStruct((2, 112, 224, 1), jnp.uint8)
        out = jax.eval_shape(made.responses, empty, images)
        assert out.shape == (2, *made.grid, made.width)
        assert out.dtype == jnp.float32


@pytest.mark.slow
def test_a_real_vit_s_is_that_of_its_own_program():
    """VTADL_VIT_S: a ViT-S/14's file; VTADL_VIT_S_GOLDEN: an .npz with `images` uint8 [B, H, W, 3]
    and `tokens` [B, N, 384] of its last block after the norm."""
    file, reference = (os.environ.get(n, "") for n in ("VTADL_VIT_S", "VTADL_VIT_S_GOLDEN"))
    if not Path(file).is_file():
        pytest.skip("VTADL_VIT_S names no file of a ViT-S/14")
    vit, reading = VITS["dinov2_vits14"], Reading((11,))
    images = images_of((224, 224))
    want = None
    if Path(reference).is_file():
        stored = np.load(reference)
        images, want = stored["images"], stored["tokens"]
    grid = (images.shape[1] // 14, images.shape[2] // 14)
    weights = frozen_vit_load.load(read_arrays(Path(file)), "dinov2_vits14", vit, grid, 3, reading)
    got = np.asarray(_compiled(vit, reading, "float32")(weights, images))
    assert np.isfinite(got).all()
    if want is not None:
        np.testing.assert_allclose(got.reshape(want.shape), want, atol=2e-4)


@pytest.mark.slow
def test_a_run_keeps_the_encoder_and_needs_its_file_once(tmp_path, dataset, monkeypatch):
    case = CASES["dinov3"]
    monkeypatch.setitem(VITS, "small", case.vit)
    monkeypatch.setitem(EXTRACTORS, "small", EXTRACTORS["dinov2_vits14"])
    file = tmp_path / "small.npz"
    np.savez(file, **arrays_of(case))
    config = tiny_config(
        dataset, detector="filter_mixture", num_train_steps=0, num_epochs=0,
        init_from=str(file), model__features="small", model__encoder__blocks=READ,
        model__encoder__combine="concat", eval__num_pictures=0,
    )  # fmt: skip
    results = run(config, tmp_path / "run")
    file.unlink()
    assert run(config, tmp_path / "run")["image_auroc"] == results["image_auroc"]
    predict = Predictor.from_workdir(tmp_path / "run")
    assert np.isfinite(predict(images_of((32, 32))[0]).score)
