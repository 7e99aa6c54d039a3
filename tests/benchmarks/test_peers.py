"""The peers compute the same results: the official network its golden numbers, the paper's network
those of ours."""

import jax
import numpy as np
import pytest

from tests import golden
from tests.factory import tiny_config
from vtadl_jax.detectors.contract import Batch
from vtadl_jax.experiment import make_detector
from vtadl_jax.networks.parallel import SINGLE_DEVICE

torch = pytest.importorskip("torch", reason="torch is not installed (extra bench)")

from vtadl_jax.benchmarks.peers import torch_ops  # noqa: E402
from vtadl_jax.benchmarks.peers.from_flax import load_variables, named_arrays  # noqa: E402
from vtadl_jax.benchmarks.peers.torch_paper import PaperVTADL  # noqa: E402
from vtadl_jax.benchmarks.peers.torch_vtadl import OfficialVTADL  # noqa: E402


@pytest.fixture(scope="module")
def official():
    """(network with the golden parameters, images, golden arrays, golden gradient norms)."""
    golden.skip_without_golden()
    network = OfficialVTADL(noise_std=0.0)
    for part, arrays in zip(
        (network.autoencoder, network.mixture), golden.state_dicts(), strict=True
    ):
        part.load_state_dict({name: torch.tensor(array) for name, array in arrays.items()})
    images = torch.tensor(golden.images())
    return network, images, golden.numbers(), golden.gradient_norms()


def assert_near(got, want, tolerance=1e-5):
    got, want = np.asarray(got), np.asarray(want)
    assert got.shape == want.shape
    assert np.abs(got - want).max() <= tolerance * np.abs(want).max()


def test_official_network_evaluates_to_the_golden_numbers(official):
    network, images, numbers, _ = official
    network.eval()
    with torch.no_grad():
        tokens, recon, patch_nll, mse, ssim = network.terms(images)
        weights, mu, log_var = network.mixture.parameters_of(tokens)
    got = {
        "encoded": tokens,
        "recon_rows": recon[:, :, ::37],
        "recon_mean": recon.mean((1, 2, 3)),
        "pi": weights,
        "mu_s": mu[:, ::9, ::31],
        "sigma_s": log_var[:, ::9, ::31],
        "patch_nll": patch_nll,
        "mse": mse,
    }
    for name, value in got.items():
        assert_near(value, numbers[name])
    # Of noise against noise: a mean of 1.6 million values of both signs, near zero.
    assert float(ssim) == pytest.approx(float(numbers["ssim"]), abs=1e-6)


def test_official_network_trains_by_the_golden_numbers(official):
    network, images, numbers, norms = official
    loss, terms = network.train()(images)
    loss.backward()
    assert_near(loss.detach(), numbers["train_loss"])
    for name, key in (("mse", "train_mse"), ("ssim", "train_ssim"), ("nll", "train_mdn")):
        assert_near(terms[name].detach(), numbers[key], 1e-4)
    named = {
        **dict(network.autoencoder.named_parameters()),
        **{f"mdn.{name}": value for name, value in network.mixture.named_parameters()},
    }
    assert named.keys() == norms.keys()
    for name, parameter in named.items():
        # A bias before batch normalisation has no gradient but rounding.
        floor = 1e-5 if name.startswith("decoder") and norms[name] < 1e-5 else 0.0
        assert float(parameter.grad.norm()) == pytest.approx(norms[name], rel=1e-3, abs=floor), name


@pytest.fixture(scope="module")
def pair():
    """(our detector, its variables, the same network in torch, images NHWC uint8), noise off."""
    config = tiny_config(
        model__mdn__noise_std=0.0, image_size=(32, 48), model__decoder__vector_dim=192
    )
    detector = make_detector(config)
    variables = detector.init(jax.random.key(0))
    # Running statistics that are not the initial ones, so that scoring has to find them.
    stats = jax.tree.map(lambda x: x + 0.1, variables["stats"])
    variables = {"params": variables["params"], "stats": stats}
    twin = PaperVTADL(config)
    load_variables(twin, variables)
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 48, 3), np.uint8)
    return detector, variables, twin, images


def to_torch(images):
    return torch.tensor(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


def test_paper_network_scores_as_ours(pair):
    detector, variables, twin, images = pair
    ours = jax.jit(detector.score)(variables, images)
    with torch.no_grad():
        terms, maps, recon = twin.eval().score(to_torch(images))
    assert_near(terms, ours.terms)
    assert_near(maps, ours.anomaly_map)
    assert np.abs(recon.permute(0, 2, 3, 1).numpy() - np.int32(ours.recon)).max() <= 1


def test_paper_network_has_our_loss_terms_and_gradients(pair):
    detector, variables, twin, images = pair
    keys = jax.random.split(jax.random.key(1), len(images))

    def loss_of(params):
        batch = Batch(image=images)
        return detector.loss({**variables, "params": params}, batch, keys, SINGLE_DEVICE)

    (want, (want_terms, _)), grads = jax.jit(jax.value_and_grad(loss_of, has_aux=True))(
        variables["params"]
    )
    loss, terms = twin.train()(to_torch(images))
    loss.backward()
    assert_near(loss.detach(), want)
    assert terms.keys() == want_terms.keys()
    for name, value in terms.items():
        assert_near(value.detach(), want_terms[name])
    theirs = {name: parameter.grad for name, parameter in twin.named_parameters()}
    ours = dict(named_arrays(grads))
    assert ours.keys() == theirs.keys()
    for name, gradient in ours.items():
        assert_near(theirs[name], gradient, 1e-3)


def test_paper_networks_noise_blurs_the_condition_only():
    twin = PaperVTADL(tiny_config())
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    (_, first), (_, second) = twin.train()(images), twin(images)
    assert first["nll"] != second["nll"]
    assert first["mse"] == second["mse"]


def test_a_parameter_without_a_place_is_refused():
    twin = PaperVTADL(tiny_config())
    with pytest.raises(ValueError, match=r"unexpected.*decoder\.nowhere\.weight"):
        load_variables(
            twin,
            {"params": {"decoder": {"nowhere": {"kernel": np.zeros((2, 2))}}}, "stats": {}},
        )


@pytest.mark.parametrize("sigma", [0.0, 1.5, 4.0])
def test_maps_are_upsampled_and_smoothed_as_ours(sigma):
    from vtadl_jax.ops.resize import upsample_maps

    maps = np.random.default_rng(0).normal(size=(2, 4, 6)).astype(np.float32)
    got = torch_ops.upsample_maps(torch.tensor(maps), (24, 30), sigma)
    assert_near(got, upsample_maps(maps, (24, 30), sigma))
