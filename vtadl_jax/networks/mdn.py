"""The Gaussian mixture density network: p(y | x) with full covariances (paper §III, eq. 4-6).

x is the encoded token; y, the target of the density, is the token projected to `feature_dim`. The
paper takes y = x in R^512, where one full covariance has 131,328 numbers; the projection makes full
covariances affordable.
"""

import dataclasses
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vtadl_jax.errors import UserError
from vtadl_jax.networks.online_mixture import OnlineMixture
from vtadl_jax.ops.dense import weight_product
from vtadl_jax.ops.mixture import mixture_log_prob_rows, shared_mixture_log_prob, tril_size
from vtadl_jax.options import LARGEST_SIZE, option

# softplus(log(e - 1)) = 1: components start with unit scales.
UNIT_SCALE = math.log(math.e - 1)
# Adam moves a parameter by about the learning rate per step. The output of a layer moves by many
# weights at once, a shared parameter is a single number: this factor gives it the same step size.
SHARED_REACH = 10.0


@dataclasses.dataclass(frozen=True)
class MdnOptions:
    """Options of the mixture density network over encoded tokens; see `MixtureDensity`."""

    num_components: int = option(150, "Gaussians", at_least=1, limit=LARGEST_SIZE)
    feature_dim: int = option(
        16, "dimension that a token is projected to", at_least=1, limit=LARGEST_SIZE
    )
    fixed_features: bool = option(
        False, "project along constant random directions, not learned ones"
    )
    covariance: str = option("full", "of a Gaussian", choices=("full", "diag"))
    conditional: bool = option(True, "False: one mixture shared by all tokens")
    scale_floor: float = option(
        0.05, "least diagonal of a factor; features have unit scale", above=0
    )
    noise_std: float = option(0.2, "of the noise on the tokens, in training only", at_least=0)
    noisy_features: bool = option(False, "True: noise also on the features that the density models")
    stop_gradient: bool = option(False, "True: the density does not train the encoder")
    learning: str = option(
        "gradient",
        "of a shared mixture: by the optimizer, or 'em' by online EM",
        choices=("gradient", "em"),
    )


class RowsDense(nn.Module):
    """A linear layer with tokens on the last axis of its output: x [T, D] → [rows, K, T].

    `mixture_log_prob_rows` reads this layout without a transposition.
    """

    rows: int
    num_components: int
    kernel_scale: float
    bias_init: Any
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        shape = (self.rows, self.num_components)
        init = nn.initializers.normal(self.kernel_scale / math.sqrt(x.shape[-1]))
        kernel = self.param("kernel", init, (x.shape[-1], *shape))
        bias = self.param("bias", self.bias_init, shape)
        return weight_product(x, kernel, jnp.dtype(self.dtype), True) + bias[..., None]


class MixtureDensity(nn.Module):
    """Negative log-likelihood of encoded tokens under a Gaussian mixture.

    covariance: 'full' (Cholesky factors) or 'diag'. conditional: True makes logits, means and
    factors functions of the token (the paper), False makes them parameters shared by all tokens.
    The factor's diagonal is softplus + `scale_floor`, which bounds the density. fixed_features:
    project onto constant random orthonormal directions, which training cannot shrink to raise the
    density. learning: 'em' fits a shared mixture by `OnlineMixture`, which stores it under 'stats'.
    noisy_features: compute y from the noisy token, not from the clean one. normalize: each token to
    mean 0 and deviation 1; False for tokens that training cannot shrink.
    """

    num_components: int
    feature_dim: int
    covariance: str = "full"
    conditional: bool = True
    scale_floor: float = 0.05
    noise_std: float = 0.2
    stop_gradient: bool = False
    fixed_features: bool = False
    noisy_features: bool = False
    learning: str = "gradient"
    normalize: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, tokens, keys=None):
        """Returns the nll of tokens [B, N, D]: [B, N] float32.

        keys: [B] in training, None otherwise. With keys, noise N(0, noise_std²) is added to x, so
        that the network predicts the density from a perturbed token.
        """
        batch, num_tokens, width = tokens.shape
        # Unit scale per token: otherwise the encoder could raise the density by shrinking tokens.
        tokens = tokens.astype(jnp.float32)
        if self.normalize:
            tokens = nn.LayerNorm(use_scale=False, use_bias=False, name="norm")(tokens)
        if self.stop_gradient:
            tokens = jax.lax.stop_gradient(tokens)
        x = clean = tokens.reshape(-1, width)
        if keys is not None and self.noise_std > 0:
            noise = jax.vmap(lambda key: jax.random.normal(key, (num_tokens, width)))(keys)
            x = clean + self.noise_std * noise.reshape(x.shape)
        y = self._features(x if self.noisy_features else clean)
        if self.learning == "em":
            online = OnlineMixture(self.num_components, self.scale_floor, name="online")
            log_prob = online(y, train=keys is not None)
        else:
            log_prob = self._conditional(x, y) if self.conditional else self._shared(y)
        return -log_prob.reshape(batch, num_tokens)

    def _features(self, x):
        """Projects [T, D] to [T, d] float32; orthonormal at initialization, so of unit scale."""
        if self.fixed_features:
            normal = np.random.default_rng(0).normal(size=(x.shape[-1], self.feature_dim))
            directions = np.linalg.qr(normal)[0].astype(np.float32)
            return jnp.matmul(x, directions, precision=jax.lax.Precision.HIGHEST)
        return nn.Dense(
            self.feature_dim,
            use_bias=False,
            kernel_init=nn.initializers.orthogonal(),
            name="features",
        )(x)

    def _conditional(self, x, y):
        k, d = self.num_components, self.feature_dim

        def head(name, rows, kernel_scale, bias_init):
            return RowsDense(rows, k, kernel_scale, bias_init, self.dtype, name=name)(x)

        zeros = nn.initializers.zeros
        logits = head("logits", 1, 1.0, zeros)[0]
        loc = head("loc", d, 1.0, nn.initializers.normal(1.0))
        raw = head("scale_diag", d, 0.1, nn.initializers.constant(UNIT_SCALE))
        lower = None
        if self.covariance == "full":
            lower = head("scale_lower", tril_size(d), 0.1, zeros)
        diagonal = jax.nn.softplus(raw) + self.scale_floor
        return mixture_log_prob_rows(logits, loc, diagonal, lower, y.T)

    def _shared(self, y):
        k, d = self.num_components, self.feature_dim

        def shared(name, init, *shape):
            return SHARED_REACH * self.param(name, init, shape)

        logits = shared("logits", nn.initializers.zeros, k)
        loc = shared("loc", nn.initializers.normal(1.0 / SHARED_REACH), k, d)
        raw = shared("scale_diag", nn.initializers.constant(UNIT_SCALE / SHARED_REACH), k, d)
        factor = jax.vmap(jnp.diag)(jax.nn.softplus(raw) + self.scale_floor)
        if self.covariance == "full":
            lower = shared("scale_lower", nn.initializers.zeros, k, tril_size(d))
            factor = factor.at[:, *jnp.tril_indices(d, -1)].set(lower)
        return shared_mixture_log_prob(logits, loc, factor, y)


def check_mixture(options: MdnOptions, parallel: str) -> None:
    """Raises UserError for options that online EM does not allow. parallel: as in `Inputs`."""
    if options.learning != "em":
        return
    needed = (
        ("conditional", False, "online EM fits one mixture shared by all tokens"),
        ("fixed_features", True, "nothing else keeps a learned projection from shrinking"),
        ("covariance", "full", "online EM fits full covariances"),
    )
    for name, value, reason in needed:
        if (found := getattr(options, name)) != value:
            raise UserError(
                f"model.mdn.{name} {found!r}: {reason}: use --config.model.mdn.{name}={value}, or "
                f"model.mdn.learning 'gradient'"
            )
    if parallel == "pmap":
        raise UserError(
            "model.mdn.learning 'em': its first step needs the whole batch, which a device does "
            "not have with train.parallel 'pmap': use --config.train.parallel=jit"
        )


def build_mixture(options: MdnOptions, dtype: Any, normalize: bool = True) -> MixtureDensity:
    """Returns the mixture density network of the options; dtype: of its matrix products."""
    fields = {f.name: getattr(options, f.name) for f in dataclasses.fields(options)}
    return MixtureDensity(**fields, normalize=normalize, dtype=dtype)
