"""The network that `vtadl_jax.models.vtadl` builds from a config, in plain PyTorch: the same work.

PyTorch's own layers throughout, none of our reformulations; parameters come from ours by
`from_flax.load_variables`. Only what the paper's configuration uses: class token, conditional
mixture, full covariances, learned features, float32.
"""

import math

import torch
from ml_collections import ConfigDict
from torch import nn
from torch.nn import functional as F

from vtadl_jax.benchmarks.peers.torch_ops import SSIM, mixture_log_prob, patchify, upsample_maps
from vtadl_jax.models.decoder import DecoderShape, plan_decoder


class Block(nn.Module):
    def __init__(self, width: int, num_heads: int, mlp_dim: int):
        super().__init__()
        self.num_heads = num_heads
        self.norm_attention, self.norm_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.attention_out = nn.Linear(width, width)
        self.mlp_in, self.mlp_out = nn.Linear(width, mlp_dim), nn.Linear(mlp_dim, width)

    def forward(self, x):
        batch, tokens, width = x.shape
        qkv = self.qkv(self.norm_attention(x)).view(batch, tokens, 3, self.num_heads, -1)
        h = F.scaled_dot_product_attention(*qkv.permute(2, 0, 3, 1, 4))
        x = x + self.attention_out(h.transpose(1, 2).reshape(batch, tokens, width))
        return x + self.mlp_out(F.gelu(self.mlp_in(self.norm_mlp(x))))


class Encoder(nn.Module):
    def __init__(self, model: ConfigDict, num_tokens: int, channels: int):
        super().__init__()
        width = model.width
        self.patch_size = model.patch_size
        self.patch_embedding = nn.Linear(channels * self.patch_size**2, width)
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        self.position_embedding = nn.Parameter(torch.zeros(1, num_tokens + 1, width))
        self.blocks = nn.ModuleList(
            Block(width, model.num_heads, model.mlp_dim) for _ in range(model.depth)
        )

    def forward(self, images):
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

    def forward(self, tokens):
        x = self.vector(tokens.flatten(1)).view(-1, *self.shape.base, self.shape.channels)
        x = x.permute(0, 3, 1, 2)
        for up, norm in zip(self.ups, self.norms, strict=False):
            x = F.relu(norm(up(x)))
        return torch.tanh(self.ups[-1](x))


class Mixture(nn.Module):
    def __init__(self, mdn: ConfigDict, width: int):
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

    def forward(self, tokens):
        """nll of every token, [B, N]; noise on the condition only, in training."""
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

    def __init__(self, config: ConfigDict):
        super().__init__()
        model, (height, width) = config.model, config.image_size
        self.grid = (height // model.patch_size, width // model.patch_size)
        num_tokens = math.prod(self.grid)
        channels = config.data.channels
        self.encoder = Encoder(model, num_tokens, channels)
        self.decoder = Decoder(
            plan_decoder((height, width), model.decoder.vector_dim),
            num_tokens * model.width,
            tuple(model.decoder.features),
            channels,
        )
        self.mixture = Mixture(model.mdn, model.width)
        self.ssim = SSIM(channels, data_range=2.0)
        self.weights, self.map_sigma = config.loss, config.eval.map_sigma

    def terms(self, images):
        """reconstruction, nll [B, N], and per image squared error and 1 - SSIM."""
        images = images.float() / 127.5 - 1
        tokens = self.encoder(images)
        recon = self.decoder(tokens)
        mse = (images - recon).square().mean((1, 2, 3))
        return recon, self.mixture(tokens), mse, 1 - self.ssim(images, recon)

    def forward(self, images):
        _, nll, mse, dissimilarity = self.terms(images)
        terms = {"nll": nll.mean(), "mse": mse.mean(), "dissimilarity": dissimilarity.mean()}
        loss = self.weights.nll_weight * terms["nll"] + self.weights.mse_weight * terms["mse"]
        return loss + self.weights.ssim_weight * terms["dissimilarity"], terms

    def score(self, images):
        """Terms [B, 3], anomaly map [B, H, W] and reconstruction uint8, as our `score`."""
        recon, nll, mse, dissimilarity = self.terms(images)
        maps = upsample_maps(nll.view(-1, *self.grid), images.shape[2:], self.map_sigma)
        recon = ((recon.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
        return torch.stack([mse, dissimilarity, nll.amax(1)], 1), maps, recon
