"""Every parameter of the published network converts to ours and back."""

import json

import jax
import ml_dtypes
import numpy as np
import pytest

from tests import golden
from vtadl_jax.detectors import official_names as names
from vtadl_jax.errors import UserError
from vtadl_jax.experiment import base, make_detector, parse


@pytest.fixture(scope="module")
def small():
    """(config, entries, a state dict of random numbers for them)."""
    config = base("official")
    config.model.vit.update(width=16, depth=2, mlp_dim=24, num_heads=2)
    config.model.mdn.num_components = 3
    config = parse(config)
    entries = names.autoencoder_entries(config.model) + names.mixture_entries(config.model)
    rng = np.random.default_rng(0)
    return config, entries, {e.name: rng.standard_normal(e.shape, np.float32) for e in entries}


def test_the_round_trip_is_exact(small):
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
    options = parse(base("official")).model
    autoencoder = {e.name: list(e.shape) for e in names.autoencoder_entries(options)}
    autoencoder |= {name: [] for name in names.counters(0)}
    assert autoencoder == dict(spec["params"])
    assert {e.name: list(e.shape) for e in names.mixture_entries(options)} == dict(
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
def test_arrays_that_do_not_fit_are_named(small, name, value, message):
    _, entries, arrays = small
    changed = {n: a for n, a in (arrays | {name: value}).items() if a is not None}
    with pytest.raises(UserError, match=f"^here.pt is not a state dict of this network: {message}"):
        names.check_arrays(entries, changed, "here.pt")


def test_counters_and_other_float_types_are_accepted(small):
    _, entries, arrays = small
    other = {n: a.astype(np.float16) for n, a in arrays.items()} | names.counters(5)
    other["mu.weight"] = arrays["mu.weight"].astype(ml_dtypes.bfloat16)
    names.check_arrays(entries, other, "here.pt")
    got = names.to_variables(entries, other)
    assert {leaf.dtype for leaf in jax.tree.leaves(got)} == {np.dtype(np.float32)}
    assert len(names.counters(5)) == 5


def test_many_errors_are_counted(small):
    _, entries, _ = small
    with pytest.raises(UserError, match=f"and {len(entries) - 4} more: give the file of that part"):
        names.check_arrays(entries, {}, "here.pt")
