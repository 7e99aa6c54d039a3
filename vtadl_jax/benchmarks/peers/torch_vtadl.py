"""The VT-ADL network as its authors published it in PyTorch (2021), for parity and timing.

It differs from the paper, and from `torch_paper`, in most places: a capsule layer in place of the
dense reconstruction vector, six transposed convolutions of odd sizes, a diagonal mixture whose loss
is a weighted mean of the components' negative log-likelihoods. Parameters carry the names of the
published checkpoints. 512 × 512 RGB images in [0, 1] only.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F

from vtadl_jax.benchmarks.peers.torch_ops import SSIM, patchify, upsample_maps
from vtadl_jax.detectors.official import DECODER

IMAGE_SIZE, PATCH_SIZE, WIDTH, DEPTH, NUM_HEADS, MLP_DIM = 512, 64, 512, 6, 8, 1024
NUM_TOKENS = (IMAGE_SIZE // PATCH_SIZE) ** 2
NUM_COMPONENTS, MAP_SIGMA = 10, 4.0


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.to_qkv = nn.Linear(WIDTH, 3 * WIDTH, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(WIDTH, WIDTH)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, tokens, _ = x.shape
        q, k, v = self.to_qkv(x).view(batch, tokens, 3, NUM_HEADS, -1).permute(2, 0, 3, 1, 4)
        # The published code scales by the full width, not by a head's.
        x = F.scaled_dot_product_attention(q, k, v, scale=WIDTH**-0.5)
        return self.to_out[0](x.transpose(1, 2).reshape(batch, tokens, WIDTH))


class MLP(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layers = [nn.Linear(WIDTH, MLP_DIM), nn.GELU(), nn.Linear(MLP_DIM, WIDTH)]
        self.net = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x)


class PreNorm(nn.Module):
    def __init__(self, fn: nn.Module):
        super().__init__()
        self.norm, self.fn = nn.LayerNorm(WIDTH), fn

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fn(self.norm(x))


class Residual(nn.Module):
    def __init__(self, fn: nn.Module):
        super().__init__()
        self.fn = fn

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.fn(x)


class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.ModuleList([Residual(PreNorm(Attention())), Residual(PreNorm(MLP()))])
            for _ in range(DEPTH)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            attention, mlp = layer.children()
            x = mlp(attention(x))
        return x


class Encoder(nn.Module):
    """Images [B, 3, 512, 512] → tokens [B, 64, 512]; the class token is dropped, no final norm."""

    def __init__(self) -> None:
        super().__init__()
        self.pos_embedding = nn.Parameter(0.02 * torch.randn(1, NUM_TOKENS + 1, WIDTH))
        self.cls_token = nn.Parameter(0.02 * torch.randn(1, 1, WIDTH))
        self.patch_to_embedding = nn.Linear(3 * PATCH_SIZE**2, WIDTH)
        self.transformer = Transformer()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.patch_to_embedding(patchify(images, PATCH_SIZE))
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1) + self.pos_embedding
        return self.transformer(x)[:, 1:]


class Capsule(nn.Module):
    """Tokens, as 4096 vectors of 8, each mapped to 512, summed and squashed.

    One output capsule: the routing weights are a softmax over one entry, so routing is a sum.
    """

    def __init__(self) -> None:
        super().__init__()
        vectors = NUM_TOKENS * WIDTH // 8
        self.W = nn.Parameter(torch.randn(1, vectors, WIDTH, 8) / math.sqrt(8 * NUM_TOKENS))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        vectors = tokens.reshape(len(tokens), -1, 8)
        s = torch.einsum("bnd,nod->bo", vectors, self.W[0])
        square = s.square().sum(-1, keepdim=True)
        return square / (1 + square) * s / square.sqrt()


class Decoder(nn.Module):
    """[B, 8, 8, 8] → [B, 3, 512, 512] in (-1, 1)."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for index, (inputs, outputs, kernel, stride, padding) in enumerate(DECODER):
            layers.append(nn.ConvTranspose2d(inputs, outputs, kernel, stride, padding))
            last = index == len(DECODER) - 1
            layers += [nn.Tanh()] if last else [nn.BatchNorm2d(outputs), nn.ReLU()]
        self.decoder2 = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.decoder2(x)


class AutoEncoder(nn.Module):
    """images → (tokens, reconstruction); in training both it and the mixture see noisy tokens."""

    def __init__(self, noise_std: float):
        super().__init__()
        self.vt, self.Digcap, self.decoder = Encoder(), Capsule(), Decoder()
        self.noise_std = noise_std

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        tokens = self.vt(images)
        if self.training:
            tokens = tokens + self.noise_std * torch.randn_like(tokens)
        return tokens, self.decoder(self.Digcap(tokens).view(-1, 8, 8, 8))


class Mixture(nn.Module):
    """tokens [B, N, 512] → patch losses Σ_k w_k (−log N_k), [B, N]: not a log-likelihood."""

    def __init__(self) -> None:
        super().__init__()
        self.pi = nn.Linear(WIDTH, NUM_COMPONENTS, bias=False)
        self.mu = nn.Linear(WIDTH, WIDTH * NUM_COMPONENTS, bias=False)
        self.sigma_sq = nn.Linear(WIDTH, WIDTH * NUM_COMPONENTS, bias=False)

    def parameters_of(self, tokens: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Returns weights [B, N, K], means and log-variances [B, N, 512, K]."""
        h = tokens.clamp(min=2.2e-16)
        shape = (*tokens.shape, NUM_COMPONENTS)
        return (
            self.pi(h).softmax(-1),
            self.mu(h).view(shape),
            F.softplus(self.sigma_sq(h)).view(shape),
        )

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        weights, mu, log_var = self.parameters_of(tokens)
        square = (tokens[..., None] - mu) ** 2 * torch.exp(-log_var)
        nll = 0.5 * (math.log(2 * math.pi) + (log_var + square).sum(-2))
        return (weights * nll).sum(-1)


class OfficialVTADL(nn.Module):
    """Auto-encoder and mixture; `forward` is the training loss and its terms, `score` the test."""

    def __init__(self, noise_std: float = 0.2):
        super().__init__()
        self.autoencoder, self.mixture = AutoEncoder(noise_std), Mixture()
        self.ssim = SSIM(channels=3, data_range=1.0)

    def terms(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Returns tokens, reconstruction, patch losses [B, N], mean squared error, mean SSIM."""
        tokens, recon = self.autoencoder(images)
        mse = F.mse_loss(recon, images)
        return tokens, recon, self.mixture(tokens), mse, self.ssim(images, recon).mean()

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        _, _, patch_nll, mse, ssim = self.terms(images)
        nll = patch_nll.sum() / len(images)
        return 5 * mse - 0.5 * ssim + nll, {"nll": nll, "mse": mse, "ssim": ssim}

    def score(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Does the test's work: terms [3], anomaly map [B, 512, 512] and reconstruction."""
        _, recon, patch_nll, mse, ssim = self.terms(images)
        side = IMAGE_SIZE // PATCH_SIZE
        maps = upsample_maps(patch_nll.view(-1, side, side), (IMAGE_SIZE, IMAGE_SIZE), MAP_SIGMA)
        return torch.stack([mse, ssim, patch_nll.max()]), maps, recon
