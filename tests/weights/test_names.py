"""Every parameter of the published network has its place here, and comes back from it."""

import json

import jax
import ml_dtypes
import numpy as np
import pytest

from configs import official as official_config
from tests import golden
from vtadl_jax.errors import UserError
from vtadl_jax.models import make_detector
from vtadl_jax.weights import names


@pytest.fixture(scope="module")
def small():
    """(config, entries, a state dict of random numbers for them)."""
    config = official_config.get_config()
    config.model.width, config.model.depth, config.model.mlp_dim = 16, 2, 24
    config.model.num_heads, config.model.mdn.feature_dim, config.model.mdn.num_components = 2, 16, 3
    entries = names.autoencoder_entries(config) + names.mixture_entries(config)
    rng = np.random.default_rng(0)
    return config, entries, {e.name: rng.standard_normal(e.shape, np.float32) for e in entries}


def test_there_and_back_changes_no_bit(small):
    _, entries, arrays = small
    variables = names.to_variables(entries, arrays)
    back = names.to_arrays(entries, variables)
    assert back.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(back[name], array)
        assert back[name].flags.c_contiguous


def test_variables_are_those_of_the_detector(small):
    config, entries, arrays = small
    want = jax.eval_shape(make_detector(config).init, jax.random.key(0))
    got = names.to_variables(entries, arrays)
    assert jax.tree.structure(got) == jax.tree.structure(want)
    assert jax.tree.map(np.shape, got) == jax.tree.map(np.shape, want)


def test_names_and_shapes_are_the_published_ones():
    golden.skip_without_golden()
    spec = json.loads((golden.FOLDER / f"{golden.STEM}.json").read_text())
    config = official_config.get_config()
    autoencoder = {e.name: list(e.shape) for e in names.autoencoder_entries(config)}
    autoencoder |= {name: [] for name in names.counters(0)}
    assert autoencoder == dict(spec["params"])
    assert {e.name: list(e.shape) for e in names.mixture_entries(config)} == dict(
        spec["mdn_params"]
    )


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("pi.weight", None, "pi.weight is missing"),
        ("extra.weight", np.zeros(3, np.float32), "extra.weight is left over"),
        ("pi.weight", np.zeros((16, 3), np.float32), r"pi.weight is \[16, 3\], not \[3, 16\]"),
        ("pi.weight", np.zeros((3, 16), np.int32), "pi.weight is of int32"),
        ("pi.weight", np.full((3, 16), np.nan, np.float32), "pi.weight has values that are not"),
    ],
)
def test_what_does_not_fit_is_named(small, name, value, message):
    _, entries, arrays = small
    changed = {n: a for n, a in (arrays | {name: value}).items() if a is not None}
    with pytest.raises(UserError, match=f"^here.pt is not a state dict of this network: {message}"):
        names.check_arrays(entries, changed, "here.pt")


def test_counters_and_other_floats_are_no_trouble(small):
    _, entries, arrays = small
    other = {n: a.astype(np.float16) for n, a in arrays.items()} | names.counters(5)
    other["mu.weight"] = arrays["mu.weight"].astype(ml_dtypes.bfloat16)
    names.check_arrays(entries, other, "here.pt")
    got = names.to_variables(entries, other)
    assert {leaf.dtype for leaf in jax.tree.leaves(got)} == {np.dtype(np.float32)}
    assert len(names.counters(5)) == 5


def test_many_troubles_are_counted(small):
    _, entries, _ = small
    with pytest.raises(UserError, match=f"and {len(entries) - 4} more: give the file of that part"):
        names.check_arrays(entries, {}, "here.pt")
