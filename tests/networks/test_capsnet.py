"""The CapsNet: golden numbers, shapes, and files that do not fit."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.networks import capsnet_golden as golden
from vtadl_jax.detectors.capsnet import margin_loss, mean_of_normal, objective, score_terms
from vtadl_jax.errors import UserError
from vtadl_jax.networks import capsnet
from vtadl_jax.networks.capsnet import NetworkOptions
from vtadl_jax.ops.platform import on_platform
from vtadl_jax.ops.reconstruction import squared_error
from vtadl_jax.ops.routing import lengths, route

SMALL = NetworkOptions(
    kernel_size=3, width=4, capsule_types=2, capsule_dim=3, output_dim=5, hidden=(6, 7)
)
# Largest relative error; the golden numbers were computed in float64 and stored in float32.
TOLERANCE = {np.float64: 1e-6, np.float32: 1e-4}
DTYPES = pytest.mark.parametrize("dtype", TOLERANCE, ids=lambda dtype: dtype.__name__)


# Weights of the reconstruction, by the golden's name of the loss.
LOSSES = {
    "loss": {"reconstruction_weight": 0.392 / 784},
    "loss_normal_only_reconstruction": {
        "reconstruction_weight": 0.392 / 784,
        "reconstruct_normal_only": True,
    },
    "loss_weight_0.0005_on_the_mean": {"reconstruction_weight": 0.0005 / 784},
}


@functools.cache
def evaluate(layout, dtype):
    """Returns all parts of the forward pass and all losses as numpy arrays, by name.

    One program for both tests: the compiler merges their equal passes.
    """
    options = golden.options(layout)
    params = capsnet.load(golden.state_dict(), golden.SIZE, golden.CHANNELS, options.network)

    @jax.jit
    def run(params, images):
        inputs = (images - options.mean[0]) / options.std[0]
        conv1 = jax.nn.relu(capsnet.conv(params["conv"], inputs, 1, dtype))
        primary = capsnet.input_capsules(params, inputs, options.network, dtype)
        vectors, coefficients = route(primary, params["capsules"])
        outputs = capsnet.apply(params, inputs, options.network, dtype)
        error = squared_error(images, outputs.recon)
        label = golden.labels()
        return {
            "conv1": conv1.transpose(0, 3, 1, 2),
            "primary_conv": capsnet.conv(params["primary"], conv1, 2, dtype).transpose(0, 3, 1, 2),
            "primary": primary,
            "c": coefficients,
            "vectors": outputs.vectors,
            "recon": outputs.recon.transpose(0, 3, 1, 2),
            "same": vectors,
            "mse_per_image": error,
            "mse_normal_images_only": mean_of_normal(error, label),
            "margin_per_image": margin_loss(vectors, label, options.loss),
            "terms": score_terms(outputs.vectors, error),
            "lengths": lengths(outputs.vectors),
            "losses": {
                name: objective(params, images, label, golden.options(layout, **loss), dtype)
                for name, loss in LOSSES.items()
            },
            "lengths_by_routing_iterations": [
                lengths(route(primary, params["capsules"], n)[0]) for n in (1, 2, 3)
            ],
        }

    with jax.enable_x64(dtype == np.float64):
        cast = functools.partial(jax.tree.map, lambda x: jnp.asarray(x, dtype))
        return jax.tree.map(
            np.asarray, on_platform("cpu", run)(cast(params), cast(golden.images()))
        )


@DTYPES
@pytest.mark.parametrize("layout", ["channels", "flat"])
def test_outputs_match_the_golden_numbers(layout, dtype):
    golden.skip_without()
    found, want = evaluate(layout, dtype), golden.numbers(layout)
    close = functools.partial(np.testing.assert_allclose, rtol=TOLERANCE[dtype])
    if layout == "channels":
        for name in ("conv1", "primary_conv", "primary", "c", "vectors", "recon"):
            golden.assert_array(name, found[name], TOLERANCE[dtype])
        for n, iterated in enumerate(found["lengths_by_routing_iterations"], 1):
            close(iterated, want["lengths_by_routing_iterations"][str(n)])
    np.testing.assert_array_equal(found["same"], found["vectors"])
    for name in ("lengths", "mse_per_image", "mse_normal_images_only", "margin_per_image"):
        close(found[name], want[name])
    score, difference, error, longer = found["terms"].T
    close(score, want["score"])
    # Differences of lengths near 1: relative to these.
    close(difference, want["length_difference"], atol=TOLERANCE[dtype])
    close(error, want["mse_per_image"])
    np.testing.assert_array_equal(longer, np.array(want["length_difference"]) > 0)
    extremes = found["c"].min(), found["c"].max()
    close(extremes, want["c_extremes"])


@DTYPES
@pytest.mark.parametrize("layout", ["channels", "flat"])
def test_losses_match_the_golden_numbers(layout, dtype):
    golden.skip_without()
    found, want = evaluate(layout, dtype)["losses"], golden.numbers(layout)
    for name in LOSSES:
        total, terms = found[name]
        assert float(total) == pytest.approx(want[name], rel=TOLERANCE[dtype]), name
        assert float(terms["margin"]) == pytest.approx(want["margin"], rel=TOLERANCE[dtype])
    assert golden.options().loss.reconstruction_weight * 784 == pytest.approx(0.392)


def _inputs(dtype):
    options = NetworkOptions()
    params = capsnet.load(golden.state_dict(), golden.SIZE, golden.CHANNELS, options)
    return jax.tree.map(lambda x: jnp.asarray(x, dtype), (params, golden.images()))


def _objective(options, dtype):
    label = golden.labels()

    def value(params, images):
        return objective(params, images, label, options, dtype)

    return on_platform("cpu", value)


def _by_their_names(grads):
    """The gradients under the names and in the layouts of the state dict."""
    convolution = {"conv": "conv1", "primary": "primary"}
    found = {"caps.W": grads["capsules"].swapaxes(2, 3)}
    for ours, theirs in convolution.items():
        found[f"{theirs}.weight"] = grads[ours]["kernel"].transpose(3, 2, 0, 1)
        found[f"{theirs}.bias"] = grads[ours]["bias"]
    for i in range(3):
        layer = grads["decoder"][f"layer{i}"]
        found[f"decoder.{2 * i}.weight"] = layer["kernel"].T
        found[f"decoder.{2 * i}.bias"] = layer["bias"]
    return {name: np.asarray(array) for name, array in found.items()}


@pytest.mark.slow
@DTYPES
@pytest.mark.parametrize("stopped", [True, False])
def test_gradients_match_the_golden_numbers(stopped, dtype):
    golden.skip_without()
    want = golden.numbers("channels")
    options = golden.options(stop_gradient=stopped)
    with jax.enable_x64(dtype == np.float64):
        grad = jax.jit(jax.value_and_grad(_objective(options, dtype), has_aux=True))
        params, images = _inputs(dtype)
        _, grads = grad(params, images)
        found = _by_their_names(grads)
        key = "grad_norms" if stopped else "grad_norms_gradient_through_all_routing_iterations"
        # The file has twelve digits; float32 strays by 0.034 %.
        norms = {name: np.linalg.norm(array) for name, array in found.items()}
        assert norms == pytest.approx(want[key], rel=1e-6 if dtype is np.float64 else 0.02)
        if not stopped:
            return
        for name in ("conv1.weight", "primary.weight", "caps.W", "decoder.0.weight"):
            tolerance = 1e-6 if dtype is np.float64 else 0.02
            golden.assert_array(f"grad_{name}", found[name].reshape(1, -1), tolerance)
        tx = optax.adam(1e-3)
        updates, _ = tx.update(grads, tx.init(params))
        (after, _), _ = grad(optax.apply_updates(params, updates), images)
        assert float(after) == pytest.approx(want["loss_after_adam_step"], rel=1e-3)


def test_shapes_are_the_published_ones():
    options = NetworkOptions()

    def count(tree):
        sizes = jax.tree.leaves(tree, is_leaf=lambda x: isinstance(x, tuple))
        return sum(int(np.prod(size)) for size in sizes)

    grey = capsnet.weight_shapes((28, 28), 1, options)
    assert grey["capsules"] == (2, 1152, 8, 16)
    counts = {name: count(part) for name, part in grey.items()}
    assert counts == {
        "conv": 20992,
        "primary": 5308672,
        "capsules": 294912,
        "decoder": 1337616,
    }
    colour = capsnet.weight_shapes((32, 32), 3, options)
    assert colour["capsules"] == (2, 2048, 8, 16)
    assert (count(colour["conv"]), count(colour["capsules"])) == (62464, 524288)
    assert count(colour["decoder"]) == 3682816


@pytest.mark.parametrize("layout", ["channels", "flat"])
@pytest.mark.parametrize(("size", "channels"), [((6, 9), 3), ((5, 5), 1)])
def test_any_size_and_colour(size, channels, layout):
    options = SMALL if layout == "channels" else NetworkOptions(**{**vars(SMALL), "layout": layout})
    shapes = jax.eval_shape(
        lambda key: capsnet.init(key, size, channels, options), jax.random.key(0)
    )
    found = jax.tree.map(lambda x: x.shape, shapes)
    assert found == capsnet.weight_shapes(size, channels, options)
    inputs = jax.ShapeDtypeStruct((2, *size, channels), jnp.float32)
    for dtype in (jnp.float32, jnp.bfloat16):
        run = lambda params, x, dtype=dtype: capsnet.apply(params, x, options, dtype)  # noqa: E731
        outputs = jax.eval_shape(run, shapes, inputs)
        assert outputs.vectors.shape == (2, 2, 5)
        assert outputs.recon.shape == inputs.shape
        assert outputs.vectors.dtype == outputs.recon.dtype == jnp.float32


def small_file():
    rng = np.random.default_rng(0)
    shapes = {
        "conv1.weight": (4, 1, 3, 3),
        "primary.weight": (6, 4, 3, 3),
        "decoder.0.weight": (6, 5),
        "decoder.2.weight": (7, 6),
        "decoder.4.weight": (25, 7),
    }
    biases = {name.replace("weight", "bias"): shape[:1] for name, shape in shapes.items()}
    shapes |= {**biases, "caps.W": (2, 2, 5, 3)}
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def test_a_file_fills_every_weight():
    params = capsnet.load(small_file(), (5, 5), 1, SMALL)
    shapes = jax.tree.map(lambda x: x.shape, params)
    assert shapes == capsnet.weight_shapes((5, 5), 1, SMALL)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"caps.W": None}, r"^caps\.W is missing: give"),
        (
            {"decoder.4.bias": np.zeros(24)},
            r"decoder\.4\.bias is \[24\], the network here has \[25",
        ),
        (
            {"primary.weight": np.zeros((6, 4, 3))},
            r"primary\.weight is \[6, 4, 3\], .*\[6, 4, 3, 3",
        ),
        ({"conv1.bias": np.full(4, np.nan)}, r"conv1\.bias has values that are not finite"),
    ],
)
def test_a_file_that_does_not_fit_is_told_by_name(change, message):
    arrays = {**small_file(), **change}
    arrays = {name: array for name, array in arrays.items() if array is not None}
    with pytest.raises(UserError, match=message):
        capsnet.load(arrays, (5, 5), 1, SMALL)


def test_an_image_that_is_too_small_is_refused():
    with pytest.raises(UserError, match=r"image_size \(16, 28\): .* needs sides of at least 17"):
        capsnet.grid_of((16, 28), NetworkOptions())
    assert capsnet.grid_of((17, 28), NetworkOptions()) == (1, 6)
