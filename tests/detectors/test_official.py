"""The published network against results of its own code, and against its peer."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests import golden
from tests.factory import build_of, with_fields
from vtadl_jax import run
from vtadl_jax.config import Config
from vtadl_jax.data.synthetic.dataset import make_dataset
from vtadl_jax.detectors import official_names as names
from vtadl_jax.detectors.official import build, objective, squash
from vtadl_jax.errors import UserError
from vtadl_jax.experiment import base, make_detector, parse
from vtadl_jax.ops.reconstruction import squared_error
from vtadl_jax.ops.ssim import ssim
from vtadl_jax.training.optimizer import make_optimizer

FLOAT_FLOOR = 1e-6  # float32 error of a mean of 1.6 million values of both signs, near zero


def keys_for(images, seed=0):
    return jax.random.split(jax.random.key(seed), len(images))


@pytest.fixture(scope="module")
def config():
    return with_fields(parse(base("official")), model__mdn__noise_std=0.0)


@pytest.fixture(scope="module")
def subject(config):
    """(network, its golden variables, golden images NHWC)."""
    golden.skip_without_golden()
    entries = names.autoencoder_entries(config.model) + names.mixture_entries(config.model)
    autoencoder, mixture = golden.state_dicts()
    names.check_arrays(entries, autoencoder | mixture, "golden")
    variables = names.to_variables(entries, autoencoder | mixture)
    return build_of(build, config), variables, jnp.array(golden.images().transpose(0, 2, 3, 1))


def assert_relative(got, want, tolerance=1e-4):
    got, want = np.asarray(got), np.asarray(want)
    assert got.shape == want.shape
    assert np.abs(got - want).max() <= tolerance * np.abs(want).max()


@pytest.mark.slow
def test_evaluation_matches_the_golden_results(config, subject):
    network, variables, images = subject

    @jax.jit
    def run(variables, images):
        tokens, recon, nll = network.apply(variables, images)
        parameters = network.apply(
            variables, tokens.reshape(-1, 512), method=network.mixture_parameters
        )
        return tokens, recon, nll, parameters

    tokens, recon, nll, (pi, mu, log_var) = run(variables, images)
    want = golden.numbers()

    def by_token(array):  # [D, K, T] → [B, N, D, K]
        return np.asarray(array).transpose(2, 0, 1).reshape(2, 64, 512, 10)

    assert_relative(tokens, want["encoded"])
    assert_relative(pi.T.reshape(2, 64, 10), want["pi"])
    assert_relative(by_token(mu)[:, ::9, ::31], want["mu_s"])
    assert_relative(by_token(log_var)[:, ::9, ::31], want["sigma_s"])
    assert_relative(nll, want["patch_nll"])
    rows = np.asarray(recon).transpose(0, 3, 1, 2)[:, :, ::37]
    np.testing.assert_allclose(rows, want["recon_rows"], rtol=0, atol=1e-4)
    np.testing.assert_allclose(recon.mean((1, 2, 3)), want["recon_mean"], rtol=1e-4)
    mse = squared_error(images, recon).mean()
    assert_relative(mse, want["mse"])
    similarity = ssim(images, recon, 1.0).mean()
    assert float(similarity) == pytest.approx(float(want["ssim"]), rel=1e-4, abs=FLOAT_FLOOR)


@pytest.mark.slow
def test_training_matches_the_golden_results(config, subject):
    network, variables, images = subject

    def loss_of(params):
        return objective(
            network,
            config.model.loss,
            {**variables, "params": params},
            images,
            keys_for(images),
        )

    (loss, (terms, _)), grads = jax.jit(jax.value_and_grad(loss_of, has_aux=True))(
        variables["params"]
    )
    want, norms = golden.numbers(), golden.gradient_norms()
    assert_relative(loss, want["train_loss"])
    for name, key in (("nll", "train_mdn"), ("mse", "train_mse"), ("ssim", "train_ssim")):
        assert_relative(terms[name], want[key])
    found = names.to_arrays(names.autoencoder_entries(config.model), {"params": grads})
    mixture = names.to_arrays(names.mixture_entries(config.model), {"params": grads})
    found |= {f"mdn.{name}": value for name, value in mixture.items()}
    assert found.keys() == norms.keys()
    for name, value in found.items():
        # The gradient of a bias before batch normalization is rounding error only.
        floor = 1e-5 if name.startswith("decoder") and norms[name] < 1e-5 else 0.0
        assert norm_as_golden(value) == pytest.approx(norms[name], rel=1e-3, abs=floor), name


def norm_as_golden(value):
    """Computes norms by torch in float32, as the golden ones: its sum over the 16.8 million squares
    of Digcap.W is below the float64 sum, from which ours and the peer's differ by 1e-6."""
    torch = pytest.importorskip("torch", reason="torch is not installed (extra bench)")
    return float(torch.tensor(value).norm())


@pytest.mark.slow
def test_ten_steps_follow_the_peers_losses(config, subject):
    torch = pytest.importorskip("torch", reason="torch is not installed (extra bench)")
    from vtadl_jax.benchmarks.peers.torch_vtadl import OfficialVTADL

    network, variables, images = subject
    tx = make_optimizer(config.optimizer, 10)

    @jax.jit
    def step(variables, opt_state):
        params = variables["params"]

        def loss_of(params):
            changed = {**variables, "params": params}
            return objective(network, config.model.loss, changed, images, keys_for(images))

        (loss, (_, stats)), grads = jax.value_and_grad(loss_of, has_aux=True)(params)
        updates, opt_state = tx.update(grads, opt_state, params)
        return (
            {"params": optax.apply_updates(params, updates), "stats": stats},
            opt_state,
            loss,
        )

    peer = OfficialVTADL(noise_std=0.0).train()
    for part, arrays in zip((peer.autoencoder, peer.mixture), golden.state_dicts(), strict=True):
        part.load_state_dict({name: torch.tensor(array) for name, array in arrays.items()})
    adam = torch.optim.Adam(
        peer.parameters(),
        config.optimizer.learning_rate,
        weight_decay=config.optimizer.weight_decay,
    )
    peer_images = torch.tensor(golden.images())
    opt_state = tx.init(variables["params"])
    for _ in range(10):
        variables, opt_state, loss = step(variables, opt_state)
        adam.zero_grad()
        peer_loss, _ = peer(peer_images)
        peer_loss.backward()
        adam.step()
        assert float(loss) == pytest.approx(float(peer_loss.detach()), rel=1e-3)
    stats = names.to_arrays(names.autoencoder_entries(config.model), {"stats": variables["stats"]})
    state = peer.autoencoder.state_dict()
    for name, value in stats.items():
        assert_relative(value, state[name].numpy(), 1e-3)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        (
            "image_size",
            (256, 256),
            r"image_size \(256, 256\): the official network has \(512, 512\)",
        ),
        ("data.channels", 1, "data.channels 1: the official network has 3"),
        # It has no such options: its mixture is diagonal, of whole tokens.
        ("model.mdn.covariance", "full", "unknown field model.mdn.covariance"),
        ("model.mdn.feature_dim", 16, "unknown field model.mdn.feature_dim"),
        (
            "model.vit.num_heads",
            7,
            "model.vit.width 512 is not divisible by model.vit.num_heads 7",
        ),
        ("model.mdn.num_components", 0, "model.mdn.num_components 0: use 1 or more"),
    ],
)
def test_a_config_of_another_network_is_rejected(field, value, message):
    config = base("official").unlock()
    config.update_from_flattened_dict({field: value})
    with pytest.raises(UserError, match=message):
        make_detector(parse(config))


def small_config(**fields) -> Config:
    """The published decoder behind a small encoder."""
    config = base("official")
    config.model.vit.update(width=16, depth=1, mlp_dim=16, num_heads=2)
    config.model.mdn.num_components = 2
    return with_fields(parse(config), **fields)


@pytest.mark.slow
def test_noise_is_in_training_only_and_reaches_decoder_and_density():
    detector = make_detector(small_config())
    variables = detector.init(jax.random.key(0))
    images = np.random.default_rng(0).integers(0, 256, (1, 512, 512, 3), np.uint8)
    loss = jax.jit(detector.loss)
    keys = (keys_for(images, i) for i in range(2))
    first, second = (loss(variables, {"image": images}, k)[1][0] for k in keys)
    assert all(first[name] != second[name] for name in ("nll", "mse", "ssim"))
    scores = jax.jit(detector.score)(variables, images)
    assert scores.terms.shape == (1, 3)
    assert scores.anomaly_map.shape == (1, 512, 512)
    assert scores.recon.shape == (1, 512, 512, 3)


@pytest.mark.slow
def test_squash_shortens_below_one_and_is_flat_at_zero():
    s = jnp.array([[3.0, 4.0], [0.0, 0.0]])
    np.testing.assert_allclose(squash(s), [[25 / 26 * 0.6, 25 / 26 * 0.8], [0, 0]], rtol=1e-6)
    assert np.isfinite(jax.grad(lambda s: squash(s).sum())(s)).all()


@pytest.mark.slow
def test_trains_and_evaluates_like_any_detector(tmp_path):
    data = make_dataset(
        tmp_path / "parts", image_size=64, num_train=4, num_test_good=1, num_per_defect=1
    )
    config = small_config(
        data__root=str(data),
        data__category="gear",
        batch_size=1,
        eval__batch_size=1,
        mesh__data=1,
        num_train_steps=2,
    )
    results = run.run(config, tmp_path / "run")
    assert results["step"] == 2
    assert results["num_test_images"] > 1
    assert (tmp_path / "run" / "report.html").is_file()
