"""The TPU kernels in Pallas' interpreter, and the programs that contain them."""

import os
import subprocess
import sys
import textwrap
from functools import partial
from importlib.util import find_spec

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from vtadl_jax.errors import UserError
from vtadl_jax.ops import mixture
from vtadl_jax.ops.mixture_pallas import kernel_log_prob_rows

EVERY = (0, 1, 2, 3, 4)


def rows_case(seed, k, d, t):
    """logits, loc, scale_diag, scale_lower, y in the rows-first layout, float32."""
    rng = np.random.default_rng(seed)
    arrays = (
        rng.normal(size=(k, t)),
        rng.normal(size=(d, k, t)),
        rng.uniform(0.3, 2, size=(d, k, t)),
        0.5 * rng.normal(size=(mixture.tril_size(d), k, t)),
        rng.normal(size=(d, t)),
    )
    return tuple(a.astype(np.float32) for a in arrays)


def definition(logits, loc, diag, lower, y, factor_of):
    """Returns the definition's value; builds the matrix of every token in the textbook's layout."""
    d = len(loc)
    factor = jax.numpy.zeros((*logits.T.shape, d, d), diag.dtype)
    factor = factor.at[..., *np.tril_indices(d, -1)].set(lower.T)
    factor = factor.at[..., *np.diag_indices(d)].set(diag.T)
    return mixture.mixture_log_prob_reference(logits.T, loc.T, factor, y.T, factor_of)


def weighted(function, weights):
    """Returns a scalar with a different cotangent for every token."""
    return lambda *a: (function(*a) * weights).sum()


@pytest.mark.slow
@pytest.mark.parametrize("factor_of", ["covariance", "precision"])
@pytest.mark.parametrize(
    ("k", "d", "t"),
    [
        pytest.param(1, 2, 1, id="one component, one token"),
        pytest.param(8, 3, 128, id="whole blocks"),
        pytest.param(11, 3, 140, id="blocks that reach beyond both ends"),
    ],
)
def test_kernels_match_the_definition_in_float64(k, d, t, factor_of):
    args = rows_case(30, k, d, t)
    weights = np.linspace(-1, 2, t)
    kernel = partial(kernel_log_prob_rows, factor_of=factor_of, interpret=True)
    value, grads = jax.jit(
        jax.value_and_grad(weighted(kernel, weights.astype(np.float32)), argnums=EVERY)
    )(*args)
    with jax.enable_x64(True):
        exact = tuple(np.float64(a) for a in args)
        slow = weighted(partial(definition, factor_of=factor_of), weights)
        want, wanted = jax.jit(jax.value_and_grad(slow, argnums=EVERY))(*exact)
    np.testing.assert_allclose(value, want, rtol=1e-4)
    for got, expected in zip(grads, wanted, strict=True):
        np.testing.assert_allclose(got, expected, atol=2e-4 * max(1, np.abs(expected).max()))


@pytest.mark.slow
@pytest.mark.optimized
def test_several_blocks_of_tokens_and_many_coordinates():
    args = rows_case(31, 3, 9, 600)
    both = [
        jax.jit(jax.value_and_grad(lambda *a, f=f: f(*a).sum(), argnums=EVERY))(*args)
        for f in (
            partial(kernel_log_prob_rows, factor_of="covariance", interpret=True),
            mixture.mixture_log_prob_rows,
        )
    ]
    for got, want in zip(*map(jax.tree.leaves, both), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_impossible_components_have_no_gradient():
    logits, *rest = rows_case(32, 5, 2, 6)
    logits[3:] = -np.inf
    kernel = partial(kernel_log_prob_rows, factor_of="covariance", interpret=True)
    grads = jax.grad(lambda *a: kernel(*a).sum(), argnums=EVERY)(logits, *rest)
    assert all(np.isfinite(g).all() for g in grads)
    assert not grads[1][:, 3:].any()


@pytest.mark.slow
@pytest.mark.parametrize("implementation", ["xla", "pallas"])
def test_programs_for_a_cpu_hold_the_xla_form(implementation):
    args = rows_case(33, 3, 3, 5)
    function = partial(mixture.mixture_log_prob_rows, implementation=implementation)
    grads = jax.jit(jax.grad(lambda *a: function(*a).sum(), argnums=EVERY))(*args)
    want = jax.jit(jax.grad(lambda *a: mixture.mixture_log_prob_rows(*a).sum(), argnums=EVERY))(
        *args
    )
    for got, expected in zip(grads, want, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_tokens_over_devices_by_shard_map():
    args = rows_case(34, 3, 2, 16)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    specs = tuple(PartitionSpec(*[None] * (a.ndim - 1), "data") for a in args)
    kernel = partial(kernel_log_prob_rows, factor_of="covariance", interpret=True)
    sharded = jax.shard_map(
        lambda *a: kernel(*a),
        mesh=mesh,
        in_specs=specs,
        out_specs=PartitionSpec("data"),
        check_vma=False,
    )
    got = jax.jit(jax.grad(lambda *a: sharded(*a).sum(), argnums=EVERY))(*args)
    want = jax.jit(jax.grad(lambda *a: mixture.mixture_log_prob_rows(*a).sum(), argnums=EVERY))(
        *args
    )
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_a_size_too_large_for_vmem_is_rejected():
    args = rows_case(35, 1, 60, 1)
    with pytest.raises(UserError, match=r"d 60: no room .* implementation='xla'"):
        mixture.mixture_log_prob_rows(*args, implementation="pallas")


@pytest.mark.tpu_compile
@pytest.mark.skipif(find_spec("libtpu") is None, reason="libtpu, the TPU's compiler, is not there")
def test_the_tpu_compiler_accepts_the_kernels():
    """Runs in a separate process: the topology must be set before JAX starts."""
    script = """
        import jax, jax.numpy as jnp, numpy as np
        from jax.experimental import topologies
        from jax.sharding import Mesh, NamedSharding, PartitionSpec
        from vtadl_jax.ops.mixture import mixture_log_prob_rows, tril_size

        topology = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2")
        one = NamedSharding(Mesh(np.array(topology.devices[:1]), ("x",)), PartitionSpec())
        for k, d, t in ((150, 16, 512), (5, 3, 40)):
            shapes = [(k, t), (d, k, t), (d, k, t), (tril_size(d), k, t), (d, t)]
            args = [jax.ShapeDtypeStruct(s, jnp.float32, sharding=one) for s in shapes]
            for name, calls in (("pallas", 2), ("xla", 0)):
                def value(*a):
                    return mixture_log_prob_rows(*a, implementation=name).mean()
                program = jax.jit(jax.value_and_grad(value, argnums=(0, 1, 2, 3, 4)))
                text = program.lower(*args).compile().as_text()
                assert text.count("tpu_custom_call") >= calls
                assert calls or "tpu_custom_call" not in text
        print("compiled")
    """
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_ACCELERATOR_TYPE": "v5litepod-4",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "true",
    }
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.stdout.strip().endswith("compiled"), run.stderr[-2000:]
