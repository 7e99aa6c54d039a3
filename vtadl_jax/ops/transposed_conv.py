"""Transposed convolution, with PyTorch's meaning of kernel, stride and padding.

XLA's CPU back end has no fast path for convolutions over a dilated input, nor for their weight
gradients, so there the op is one matrix product per layer: every output phase of a stride-s
transposed convolution reads the same window of ceil(k / s) input pixels (polyphase form), hence
windows → GEMM → depth-to-space. TPU and GPU compilers do best with the native convolution, but for
the thin maps at the end of a decoder, which a TPU keeps as blocks (`ops/blocks.py`).
The choice is made when the program is lowered, so a TPU program compiled on a laptop gets its own.
"""

import functools

import jax
import jax.numpy as jnp


def output_side(side: int, kernel: int, stride: int, padding: int) -> int:
    """Length of the output along one axis: (side - 1)·stride - 2·padding + kernel."""
    return (side - 1) * stride - 2 * padding + kernel


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def transposed_conv(x, kernel, stride: int, padding: int):
    """out[o] = Σ_i x[i] · kernel[o + padding - stride·i] along both image axes.

    x: [B, H, W, C], kernel: [kh, kw, C, C_out]. Returns [B, H', W', C_out] with H' as
    `output_side`. The same numbers as `torch.nn.ConvTranspose2d` for equal kernels.
    """
    return jax.lax.platform_dependent(
        x,
        kernel,
        cpu=functools.partial(polyphase, stride=stride, padding=padding),
        default=functools.partial(native, stride=stride, padding=padding),
    )


def _fwd(x, kernel, stride, padding):
    return transposed_conv(x, kernel, stride, padding), (x, kernel)


def _bwd(stride, padding, residuals, g):
    def vjp_of(op):
        def vjp(x, kernel, g):
            return jax.vjp(functools.partial(op, stride=stride, padding=padding), x, kernel)[1](g)

        return vjp

    return jax.lax.platform_dependent(*residuals, g, cpu=vjp_of(polyphase), default=vjp_of(native))


transposed_conv.defvjp(_fwd, _bwd)


def native(x, kernel, *, stride: int, padding: int):
    """The same by XLA's convolution over the stride-dilated input."""
    kh, kw = kernel.shape[:2]
    return jax.lax.conv_general_dilated(
        x,
        kernel[::-1, ::-1],
        window_strides=(1, 1),
        padding=((kh - 1 - padding,) * 2, (kw - 1 - padding,) * 2),
        lhs_dilation=(stride, stride),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def polyphase(x, kernel, *, stride: int, padding: int):
    """The same as windows → one GEMM → depth-to-space.

    Write an output position plus padding as s·q + r, and a tap as s·j + r with the same phase r:
    then out[s·q + r] = Σ_j x[q - j] · kernel[s·j + r].
    """
    batch, height, width, channels = x.shape
    kh, kw, _, features = kernel.shape
    s, th, tw = stride, -(-kh // stride), -(-kw // stride)
    qh, qw = height + th - 1, width + tw - 1
    padded = jnp.pad(x, ((0, 0), (th - 1, th - 1), (tw - 1, tw - 1), (0, 0)))
    windows = jnp.concatenate(
        [
            padded[:, th - 1 - i : th - 1 - i + qh, tw - 1 - j : tw - 1 - j + qw]
            for i in range(th)
            for j in range(tw)
        ],
        axis=-1,
    )
    taps = jnp.pad(kernel, ((0, th * s - kh), (0, tw * s - kw), (0, 0), (0, 0)))
    taps = taps.reshape(th, s, tw, s, channels, features).transpose(0, 2, 4, 1, 3, 5)
    out = windows.reshape(batch * qh * qw, -1) @ taps.reshape(th * tw * channels, -1)
    out = out.reshape(batch, qh, qw, s, s, features).transpose(0, 1, 3, 2, 4, 5)
    out = out.reshape(batch, qh * s, qw * s, features)
    out_h, out_w = (output_side(n, k, s, padding) for n, k in ((height, kh), (width, kw)))
    return out[:, padding : padding + out_h, padding : padding + out_w]


def transposed_conv_reference(x, kernel, stride: int, padding: int):
    """The definition: every input pixel adds its scaled kernel to the output."""
    batch, height, width, _ = x.shape
    kh, kw, _, features = kernel.shape
    full = jnp.zeros(
        (batch, (height - 1) * stride + kh, (width - 1) * stride + kw, features), x.dtype
    )
    for i in range(height):
        for j in range(width):
            stamp = jnp.einsum("bc,uvcf->buvf", x[:, i, j], kernel)
            full = full.at[:, i * stride : i * stride + kh, j * stride : j * stride + kw].add(stamp)
    return full[:, padding : full.shape[1] - padding, padding : full.shape[2] - padding]
