"""Each operation that the ONNX converter writes, against JAX, for numbers of images not traced."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra `onnx`")
pytest.importorskip("onnx", reason="needs the extra `onnx`")

from vtadl_jax.export.onnx.graph import Unsupported  # noqa: E402
from vtadl_jax.export.onnx.model import to_onnx  # noqa: E402

SHAPE = (6, 5, 3)
rng = np.random.default_rng(0)
KERNEL = rng.normal(size=(3, 3, 3, 4)).astype(np.float32)
MATRIX = rng.normal(size=(3, 4)).astype(np.float32)
BANK = rng.normal(size=(7, 3)).astype(np.float32)
NHWC = ("NHWC", "HWIO", "NHWC")


def session(model):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model.SerializeToString(), options)


def assert_equal(function, fixed=(), tolerance=2e-6):
    """function: (x float32 [B, 6, 5, 3] in [-2, 2], *fixed) → an array or several."""

    def named(images, fixed, settable):
        x = (images.astype(jnp.float32) - 128) / 64
        found = function(x, *fixed)
        found = found if isinstance(found, tuple | list) else (found,)
        return {f"out{i}": value for i, value in enumerate(found)}

    run = session(to_onnx(named, SHAPE, fixed))
    for count in (1, 4):
        images = np.random.default_rng(count).integers(0, 256, (count, *SHAPE), np.uint8)
        want = jax.jit(named)(images, fixed, {})
        got = run.run(sorted(want), {"images": images})
        for one, name in zip(got, sorted(want), strict=True):
            exact = np.asarray(want[name])
            assert one.shape == exact.shape
            assert one.dtype == exact.dtype
            np.testing.assert_allclose(one, exact, rtol=tolerance, atol=tolerance)


ELEMENTWISE = {
    "arithmetic": lambda x: (x + 1, x - x * 2, x / (x + 5), -x, abs(x), jnp.sign(x), x**2, x**3),
    "powers": lambda x: (x**-2, jnp.power(abs(x) + 0.1, 0.7), lax.integer_pow(x, 11), x**0),
    "roots": lambda x: (jnp.sqrt(abs(x)), lax.rsqrt(abs(x) + 1), jnp.square(x)),
    "exponentials": lambda x: (jnp.exp(x), jnp.exp2(x), jnp.log(abs(x) + 1), jax.nn.sigmoid(x)),
    "trigonometry": lambda x: (jnp.tanh(x), jnp.sin(x), jnp.cos(x)),
    "small log1p": lambda x: (jnp.log1p(x * 1e-6) * 1e6, jnp.log1p(abs(x) * 1e9)),
    "small expm1": lambda x: (jnp.expm1(x * 1e-6) * 1e6, jnp.expm1(x), jnp.expm1(x * 100)),
    "erf": lambda x: (lax.erf(x), lax.erfc(x), jax.nn.gelu(x, approximate=False)),
    "rounding": lambda x: (jnp.round(x * 4), jnp.floor(x), jnp.ceil(x), lax.round(x * 4)),
    "order": lambda x: (x < 0, x <= 0, x > 0, x >= 0, x == 0, x != 0, jnp.maximum(x, 0.5)),
    "clips": lambda x: (jnp.clip(x, -1, 1), lax.clamp(0.0, x, 1.0), jnp.minimum(x, x[:1])),
    "choice": lambda x: (jnp.where(x > 0, x, 0), jnp.where(x > 0, x > 1, x < -1)),
    "logic": lambda x: ((x > 0) & (x < 1), (x > 1) | (x < 0), ~(x > 0), (x > 0) ^ (x > 1)),
    "finite": lambda x: (jnp.isfinite(1 / (x - x)), jnp.isfinite(jnp.log(x)), jnp.isnan(x)),
    "casts": lambda x: (x.astype(jnp.int32), (x > 0).astype(jnp.uint8), x.astype(bool)),
    "half": lambda x: (x.astype(jnp.float16) * 2, (x.astype(jnp.float16) + 1).astype(jnp.float32)),
    "relus": lambda x: (jax.nn.relu(x), jax.nn.elu(x), jax.nn.softplus(x), jax.nn.swish(x)),
    "softmax": lambda x: (jax.nn.softmax(x), jax.nn.logsumexp(x, (1, 2)), jax.nn.log_softmax(x)),
}
INTEGERS = {
    "bytes": lambda i: (i + i, i * i, jnp.maximum(i, 9), i // 3, i % 7),
    "shifts": lambda i: ((i.astype(jnp.int32) - 9) >> 2, i.astype(jnp.int32) << 3),
    "division": lambda i: ((i.astype(jnp.int32) - 99) // 7, (i.astype(jnp.int32) - 99) % 7),
    "sums": lambda i: (i.sum(-1), i.max(1), i.min((1, 2)), (i > 9).all(1), (i > 250).any(-1)),
    "bits": lambda i: (i & 12, i | 3, i ^ 255, ~i),
    "choice": lambda i: (jnp.where(i > 100, i, 0), lax.select_n(i.astype(jnp.int32) % 3, i, ~i, i)),
}


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_elementwise(name):
    assert_equal(ELEMENTWISE[name])


@pytest.mark.parametrize("name", INTEGERS)
def test_integers(name):
    assert_equal(lambda x: INTEGERS[name]((x * 64 + 128).astype(jnp.uint8)))


SHAPES = {
    "broadcasts": lambda x: (jnp.broadcast_to(x[:, None], (x.shape[0], 2, *SHAPE)), x[..., None]),
    "repeats": lambda x: (jnp.tile(x, (1, 2, 1, 1)), jnp.repeat(x, 2, 1), jnp.ones_like(x)),
    "reshapes": lambda x: (x.reshape(-1, 3), x.reshape(x.shape[0], -1), x.reshape(-1, 5, 3)),
    "transposes": lambda x: (x.swapaxes(1, 3), x.transpose(3, 0, 2, 1), x.mT),
    "joins": lambda x: (jnp.concatenate([x, x * 2], 2), jnp.stack([x, x], 1), jnp.stack([x], -1)),
    "joined images": lambda x: jnp.concatenate([x, x[:, ::-1]]),
    "parts": lambda x: (*jnp.split(x, 2, 1), x[:, 1:4, ::2], x[:, -1], x[-1:], x[1:]),
    "squeezes": lambda x: (x[:, :1].squeeze(1), x.mean(1, keepdims=True).squeeze(1)),
    "reversal": lambda x: (x[:, ::-1], x[:, ::-2, ::-1]),
    "pads": lambda x: (
        jnp.pad(x, ((0, 0), (1, 2), (0, 0), (0, 0))),
        jnp.pad(x, ((0, 0), (1, 2), (2, 1), (0, 0)), mode="edge"),
        jnp.pad(x, ((0, 0), (2, 2), (2, 1), (0, 0)), mode="reflect"),
        lax.pad(x, 7.0, ((0, 0, 0), (-1, 2, 1), (1, -2, 2), (0, 0, 0))),
    ),
    "sums": lambda x: (x.sum(), x.sum((1, 2)), x.mean(-1), x.prod(3), x.var(1), x.std((1, 2))),
    "extremes": lambda x: (x.max(1), x.min((1, 2)), x.argmax(1), x.argmin(-1)),
    "running": lambda x: (jnp.cumsum(x, 1), jnp.cumsum(x, 2), lax.cumsum(x, 1, reverse=True)),
    "sorts": lambda x: (jnp.sort(x, 1), jnp.argsort(x, 2), jnp.sort(x, -1, descending=True)),
    "largest": lambda x: lax.top_k(x.reshape(x.shape[0], -1), 4),
    "counts": lambda x: (jnp.arange(x.shape[0]), lax.iota(jnp.int32, 4), x + jnp.arange(3)),
    "medians": lambda x: (jnp.median(x, 1), jnp.quantile(x, 0.3, axis=(1, 2))),
}


@pytest.mark.parametrize("name", SHAPES)
def test_shapes(name):
    assert_equal(SHAPES[name], tolerance=1e-5)


CONVOLUTIONS = {
    "same": {"padding": "SAME"},
    "strided": {"padding": "SAME", "window_strides": (2, 1)},
    "negative": {"padding": ((-1, 2), (0, 1))},
    "dilated": {"padding": "VALID", "rhs_dilation": (2, 1)},
    "transposed": {"padding": ((2, 1), (1, 2)), "lhs_dilation": (2, 2)},
    "transposed and wide": {"padding": ((3, 1), (1, 4)), "lhs_dilation": (2, 3)},
}


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions(name, known):
    options = {"window_strides": (1, 1), "dimension_numbers": NHWC, **CONVOLUTIONS[name]}

    def convolve(x, kernel):
        kernel = kernel if known else kernel * x.sum()
        return lax.conv_general_dilated(x, kernel, **options)

    assert_equal(convolve, (KERNEL,), tolerance=2e-4)


def test_convolutions_of_groups_and_other_orders():
    depthwise = rng.normal(size=(3, 3, 1, 6)).astype(np.float32)
    assert_equal(
        lambda x, kernel: lax.conv_general_dilated(
            x, kernel, (1, 2), "SAME", dimension_numbers=NHWC, feature_group_count=3
        ),
        (depthwise,),
        tolerance=1e-5,
    )
    assert_equal(
        lambda x, kernel: lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=("NCHW", "OIHW", "NHWC")
        ),
        (rng.normal(size=(2, 6, 3, 3)).astype(np.float32),),
        tolerance=1e-5,
    )
    assert_equal(
        lambda x, kernel: lax.conv_general_dilated(
            x[:, 0], kernel, (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC")
        ),
        (KERNEL[0],),
        tolerance=1e-5,
    )


PRODUCTS = {
    "matrix": lambda x, m, b: (x @ m, m.T @ x.mT, x[:, 0] @ m, (x @ m).sum(1) @ m.T),
    "einsum": lambda x, m, b: (
        jnp.einsum("bhwc,nc->bnhw", x, b),
        jnp.einsum("bhwc,bvwc->bhv", x, x),
        jnp.einsum("bhwc,bhwd->bcd", x, x),
        jnp.einsum("bhwc,bhwc->bhw", x, x),
        jnp.einsum("hwc,bhwc->b", x[0] * 0 + 1, x),
        jnp.einsum("nc,nd->cd", b, b),
    ),
    "vectors": lambda x, m, b: (x @ b[0], b[0] @ m, jnp.outer(b[0], b[1]), x.reshape(-1, 3) @ b.T),
    "distances": lambda x, m, b: (
        jnp.square(x.reshape(-1, 1, 3) - b).sum(-1),
        lax.top_k(-jnp.square(x[:, :, :, None] - b).sum(-1), 2),
    )[0],
    "half": lambda x, m, b: (
        (x.astype(jnp.float16) @ m.astype(jnp.float16)).astype(jnp.float32) / 1000
    ),
    "solved": lambda x, m, b: tuple(
        lax.linalg.triangular_solve(
            jnp.tril(b[:3]) + 3 * jnp.eye(3), x[:, 0, :3].reshape(-1, 3), lower=True, transpose_a=t
        )
        for t in (False, True)
    ),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_products(name):
    assert_equal(PRODUCTS[name], (MATRIX, BANK), tolerance=1e-4)


WINDOWS = {
    "largest": (lax.max, -np.inf, {"padding": "SAME"}),
    "smallest": (lax.min, np.inf, {"padding": "VALID"}),
    "sums": (lax.add, 0.0, {"padding": ((0, 0), (1, 0), (0, 2), (0, 0))}),
    "dilated": (lax.max, -np.inf, {"padding": "VALID", "window_dilation": (1, 2, 1, 1)}),
}


@pytest.mark.parametrize("name", WINDOWS)
def test_windows(name):
    function, start, options = WINDOWS[name]
    size, strides = (1, 3, 2, 1), (1, 2, 1, 1)
    assert_equal(lambda x: lax.reduce_window(x, start, function, size, strides, **options),
                 tolerance=1e-5)  # fmt: skip


def places(x):
    return (jnp.abs(x[..., 0]) * 100).astype(jnp.int32)


INDEXING = {
    "constant rows": lambda x, m, b: (
        x[:, jnp.array([4, 0, 0])],
        x[..., np.array([[2, 0], [1, 1]])],
    ),
    "rows": lambda x, m, b: (b[places(x) % 7], jnp.take(b, places(x) % 7, 0, mode="clip")),
    "outside": lambda x, m, b: (
        jnp.take(b, places(x), 0, mode="clip"),
        jnp.nan_to_num(jnp.take(b, places(x) % 9, 0, mode="fill"), nan=-5),
        jnp.take(b, jnp.array([0, 6, -1]), 0),
    ),
    "along": lambda x, m, b: (
        jnp.take_along_axis(x, places(x)[..., None] % 6, 1),
        jnp.take_along_axis(x, x.argmax(-1)[..., None], -1),
    ),
    "pairs": lambda x, m, b: (
        b[places(x) % 7, places(x) % 3],
        x[:, places(x)[0, 0] % 6, places(x)[0, 1] % 5],
        x[:, :, places(x)[0, 0] % 5],
    ),
    "slices": lambda x, m, b: (
        lax.dynamic_slice_in_dim(x, places(x)[0, 0, 0] % 9, 2, 1),
        jax.vmap(lambda y, i: lax.dynamic_slice(y, (i, 0, 1), (2, 5, 1)))(x, places(x)[:, 0, 0]),
        lax.dynamic_update_slice_in_dim(x, x[:, :2] * 0, places(x)[0, 0, 0] % 9, 1),
    ),
    "writes": lambda x, m, b: (
        x.at[:, 2].set(7),
        x.at[:, jnp.array([0, 3]), 1].add(x[:, :2, 0]),
        b.at[np.array([1, 1, 2])].add(1.0),
    ),
    "tables": lambda x, m, b: (
        jnp.interp(x, jnp.arange(-2.0, 3.0), jnp.arange(5.0) ** 2),
        jnp.searchsorted(jnp.arange(-2.0, 3.0), x),
    ),
}


@pytest.mark.parametrize("name", INDEXING)
def test_indexing(name):
    assert_equal(INDEXING[name], (MATRIX, BANK), tolerance=1e-5)


def halves(x):
    return lax.while_loop(lambda c: c[0].sum() > 1, lambda c: (c[0] / 2, c[1] + 1), (abs(x), 0))


LOOPS = {
    "turns": lambda x, m: lax.fori_loop(0, 5, lambda i, c: c * 0.5 + x * i, x),
    "images": lambda x, m: lax.map(lambda y: y @ m, x),
    "rows": lambda x, m: lax.scan(lambda c, y: (c + y, c * 2), x[:, 0], x.swapaxes(0, 1)),
    "backward": lambda x, m: lax.scan(
        lambda c, y: (c + y, c), x[:, 0], x.swapaxes(0, 1), reverse=True
    ),
    "layers": lambda x, m: lax.scan(
        lambda c, w: (jnp.tanh(c @ w), c.sum()), x, jnp.stack([m[:, :3], m[:, 1:]])
    ),
    "while": lambda x, m: halves(x),
    "while by vmap": lambda x, m: jax.vmap(halves)(x),
    "branches": lambda x, m: lax.cond(x.sum() > 0, lambda y: y * 2, lambda y: y - 1, x),
    "images by vmap": lambda x, m: jax.vmap(
        lambda y: lax.fori_loop(0, 3, lambda i, c: c @ m @ m.T, y)
    )(x),
}


@pytest.mark.parametrize("name", LOOPS)
def test_loops(name):
    assert_equal(LOOPS[name], (MATRIX,), tolerance=1e-4)


def test_settable_values_are_inputs_with_a_default():
    model = to_onnx(
        lambda images, fixed, settable: {"over": images.max((1, 2, 3)) >= settable["threshold"]},
        SHAPE,
        (),
        {"threshold": np.asarray(100, np.uint8)},
    )
    run = session(model)
    images = np.full((2, *SHAPE), 120, np.uint8)
    assert run.run(None, {"images": images})[0].all()
    assert not run.run(None, {"images": images, "threshold": np.array(200, np.uint8)})[0].any()


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (lambda x: lax.lgamma(x), "'lgamma'"),
        (lambda x: x / x.shape[0], "depends on the number of images"),
        (lambda x: jnp.concatenate([x] * x.shape[0]), "number of images"),
        (lambda x: x.astype(jnp.complex64).real, "complex64"),
    ],
)
def test_what_can_not_be_written_is_refused_by_name(function, says):
    with pytest.raises(Unsupported, match=says):
        to_onnx(
            lambda images, fixed, settable: {"out": function(images.astype(jnp.float32))},
            SHAPE,
            (),
        )


def test_a_sum_over_a_large_image_keeps_its_digits():
    """ONNX Runtime adds over several axes at once with an error of 2e-4 here."""
    images = np.random.default_rng(0).integers(100, 256, (2, 512, 512, 3), np.uint8)

    def mean(images, fixed, settable):
        return {"mean": jnp.log(images.astype(jnp.float32) / 255).mean((1, 2, 3))}

    (found,) = session(to_onnx(mean, images.shape[1:], ())).run(None, {"images": images})
    exact = np.log(images / np.float32(255), dtype=np.float64).mean((1, 2, 3))
    np.testing.assert_allclose(found, exact, rtol=5e-6)
