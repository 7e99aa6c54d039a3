"""The paper's VT-ADL in PyTorch: the twin of `detectors/vtadl.py`, with the same parameters.

PyTorch's own layers throughout, none of our reformulations; parameters come from ours by
`from_flax.load_variables`. Only what the paper's configuration uses: class token, conditional
mixture, full covariances, learned features, float32.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F

from vtadl_jax.benchmarks.peers.torch_ops import SSIM, mixture_log_prob, patchify, upsample_maps
from vtadl_jax.config import Config
from vtadl_jax.detectors.vtadl import VTADLOptions
from vtadl_jax.networks.decoder import DecoderShape, plan_decoder
from vtadl_jax.networks.mdn import MdnOptions
from vtadl_jax.networks.vit import VitOptions, grid_of


class Block(nn.Module):
    def __init__(self, width: int, num_heads: int, mlp_dim: int):
        super().__init__()
        self.num_heads = num_heads
        self.norm_attention, self.norm_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.attention_out = nn.Linear(width, width)
        self.mlp_in, self.mlp_out = nn.Linear(width, mlp_dim), nn.Linear(mlp_dim, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, tokens, width = x.shape
        qkv = self.qkv(self.norm_attention(x)).view(batch, tokens, 3, self.num_heads, -1)
        h = F.scaled_dot_product_attention(*qkv.permute(2, 0, 3, 1, 4))
        x = x + self.attention_out(h.transpose(1, 2).reshape(batch, tokens, width))
        return x + self.mlp_out(F.gelu(self.mlp_in(self.norm_mlp(x))))


class Encoder(nn.Module):
    def __init__(self, vit: VitOptions, num_tokens: int, channels: int):
        super().__init__()
        width = vit.width
        self.patch_size = vit.patch_size
        self.patch_embedding = nn.Linear(channels * self.patch_size**2, width)
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        self.position_embedding = nn.Parameter(torch.zeros(1, num_tokens + 1, width))
        self.blocks = nn.ModuleList(
            Block(width, vit.num_heads, vit.mlp_dim) for _ in range(vit.depth)
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.patch_embedding(patchify(images, self.patch_size))
        x = torch.cat([self.class_token.expand(len(x), -1, -1), x], 1) + self.position_embedding
        for block in self.blocks:
            x = block(x)
        return x[:, 1:]


class Decoder(nn.Module):
    def __init__(self, shape: DecoderShape, inputs: int, features: tuple[int, ...], channels: int):
        super().__init__()
        self.shape = shape
        self.vector = nn.Linear(inputs, shape.vector_dim)
        widths = (shape.channels, *features, channels)
        self.ups, self.norms = nn.ModuleList(), nn.ModuleList(map(nn.BatchNorm2d, features))
        for i, stride in enumerate(shape.strides):
            size, padding = (2 * stride, stride // 2) if stride > 1 else (3, 1)
            last = i == len(shape.strides) - 1
            self.ups.append(
                nn.ConvTranspose2d(widths[i], widths[i + 1], size, stride, padding, bias=last)
            )

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.vector(tokens.flatten(1)).view(-1, *self.shape.base, self.shape.channels)
        x = x.permute(0, 3, 1, 2)
        for up, norm in zip(self.ups, self.norms, strict=False):
            x = F.relu(norm(up(x)))
        return torch.tanh(self.ups[-1](x))


class Mixture(nn.Module):
    def __init__(self, mdn: MdnOptions, width: int):
        super().__init__()
        k, d = mdn.num_components, mdn.feature_dim
        self.noise_std, self.scale_floor = mdn.noise_std, mdn.scale_floor
        self.norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.features = nn.Linear(width, d, bias=False)
        self.logits, self.loc = nn.Linear(width, k), nn.Linear(width, k * d)
        self.scale_diag = nn.Linear(width, k * d)
        self.scale_lower = nn.Linear(width, k * d * (d - 1) // 2)
        rows, cols = torch.tril_indices(d, d, -1)
        self.k, self.d, self.rows, self.cols = k, d, rows, cols

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Returns the nll of every token, [B, N]; noise on the condition only, in training."""
        x = self.norm(tokens).flatten(0, 1)
        y = self.features(x)
        if self.training and self.noise_std > 0:
            x = x + self.noise_std * torch.randn_like(x)
        k, d = self.k, self.d
        diagonal = F.softplus(self.scale_diag(x)) + self.scale_floor
        scale_tril = torch.diag_embed(diagonal.view(-1, k, d))
        scale_tril[..., self.rows, self.cols] = self.scale_lower(x).view(len(x), k, -1)
        log_prob = mixture_log_prob(self.logits(x), self.loc(x).view(-1, k, d), scale_tril, y)
        return -log_prob.view(tokens.shape[:2])


class PaperVTADL(nn.Module):
    """`forward`: images uint8 [B, C, H, W] → training loss and its terms; `score`: the test."""

    def __init__(self, config: Config):
        super().__init__()
        options: VTADLOptions = config.model
        vit, channels = options.vit, config.data.channels
        self.grid = grid_of(vit, config.image_size)
        num_tokens = math.prod(self.grid)
        self.encoder = Encoder(vit, num_tokens, channels)
        self.decoder = Decoder(
            plan_decoder(config.image_size, options.decoder.vector_dim),
            num_tokens * vit.width,
            options.decoder.features,
            channels,
        )
        self.mixture = Mixture(options.mdn, vit.width)
        self.ssim = SSIM(channels, data_range=2.0)
        self.weights, self.map_sigma = options.loss, config.eval.map_sigma

    def terms(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Returns reconstruction, nll [B, N], and per image squared error and 1 - SSIM."""
        images = images.float() / 127.5 - 1
        tokens = self.encoder(images)
        recon = self.decoder(tokens)
        mse = (images - recon).square().mean((1, 2, 3))
        return recon, self.mixture(tokens), mse, 1 - self.ssim(images, recon)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        _, nll, mse, dissimilarity = self.terms(images)
        terms = {"nll": nll.mean(), "mse": mse.mean(), "dissimilarity": dissimilarity.mean()}
        loss = self.weights.nll_weight * terms["nll"] + self.weights.mse_weight * terms["mse"]
        return loss + self.weights.ssim_weight * terms["dissimilarity"], terms

    def score(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Returns terms [B, 3], anomaly map [B, H, W] and reconstruction uint8, as our `score`."""
        recon, nll, mse, dissimilarity = self.terms(images)
        size = images.shape[2], images.shape[3]
        maps = upsample_maps(nll.view(-1, *self.grid), size, self.map_sigma)
        recon = ((recon.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
        return torch.stack([mse, dissimilarity, nll.amax(1)], 1), maps, recon
