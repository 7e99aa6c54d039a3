"""Transposed convolution, with PyTorch's meaning of kernel, stride and padding.

XLA's CPU back end has no fast path for convolutions over a dilated input, nor for their weight
gradients, so there the op consists of plain convolutions (polyphase form): every output phase of a
stride-s transposed convolution reads the same window of ceil(k / s) input pixels. On TPU and GPU
the native convolution is fastest, except for the thin maps at the end of a decoder, which a TPU
keeps as blocks (`ops/blocks.py`). The choice is made when the program is lowered, so a TPU program
compiled on a laptop gets the TPU's implementation.
"""

import functools

import jax
import jax.numpy as jnp

from vtadl_jax.ops.platform import by_platform

# XLA's CPU compiler uses YNNPACK for convolutions with more output channels than this, else Eigen.
# For Eigen and kernels at least this wide, several neighbouring columns are computed at once.
EIGEN_CHANNELS, WIDE_KERNEL = 16, 5


def output_side(side: int, kernel: int, stride: int, padding: int) -> int:
    """Returns the output's size along one axis: (side - 1)·stride - 2·padding + kernel."""
    return (side - 1) * stride - 2 * padding + kernel


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def transposed_conv(x, kernel, stride: int, padding: int):
    """Computes out[o] = Σ_i x[i] · kernel[o + padding - stride·i] along both image axes.

    x: [B, H, W, C], kernel: [kh, kw, C, C_out]. Returns [B, H', W', C_out] with H' as
    `output_side`; equal to `torch.nn.ConvTranspose2d` for equal kernels.
    """
    return by_platform(
        x,
        kernel,
        cpu=functools.partial(polyphase, stride=stride, padding=padding),
        default=functools.partial(native, stride=stride, padding=padding),
    )


def _fwd(x, kernel, stride, padding):
    return transposed_conv(x, kernel, stride, padding), (x, kernel)


def _bwd(stride, padding, residuals, g):
    def vjp_of_native(x, kernel, g):
        op = functools.partial(native, stride=stride, padding=padding)
        return jax.vjp(op, x, kernel)[1](g)

    def vjp_of_polyphase(x, kernel, g):
        grad_x = polyphase_grad_x(g, kernel, stride=stride, padding=padding)
        grad_kernel = polyphase_grad_kernel(x, g, kernel.shape, stride=stride, padding=padding)
        return grad_x, grad_kernel

    return by_platform(*residuals, g, cpu=vjp_of_polyphase, default=vjp_of_native)


transposed_conv.defvjp(_fwd, _bwd)


def native(x, kernel, *, stride: int, padding: int):
    """Computes `transposed_conv` by XLA's convolution over the stride-dilated input.

    XLA fails to compile the kernel's gradient if the padding removes the whole border of one axis
    but not of the other (kernel 4 × 5, padding 3): there the last pixel is cut off instead.
    """
    kh, kw = kernel.shape[:2]
    inside = min(padding, max(min(kh, kw) - 2, 0))
    out = jax.lax.conv_general_dilated(
        x,
        kernel[::-1, ::-1],
        window_strides=(1, 1),
        padding=((kh - 1 - inside,) * 2, (kw - 1 - inside,) * 2),
        lhs_dilation=(stride, stride),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    cut = padding - inside
    return out[:, cut : out.shape[1] - cut, cut : out.shape[2] - cut]


def polyphase(x, kernel, *, stride: int, padding: int):
    """Computes `transposed_conv` as a convolution with stride² · C_out outputs, depth-to-space.

    Write an output position plus padding as s·q + r, and a tap as s·j + r with the same phase r:
    then out[s·q + r] = Σ_j x[q - j] · kernel[s·j + r].
    """
    batch, height, width, channels = x.shape
    kh, kw, _, features = kernel.shape
    if stride == 1:
        ends = (kh - 1 - padding,) * 2, (kw - 1 - padding,) * 2
        return _conv_by_columns(x, kernel[::-1, ::-1], ends)
    (th, tw), (qh, qw) = _phases(x.shape, kernel.shape, stride)
    s = stride
    taps = jnp.pad(kernel, ((0, th * s - kh), (0, tw * s - kw), (0, 0), (0, 0)))
    taps = taps.reshape(th, s, tw, s, channels, features)[::-1, :, ::-1]
    taps = taps.transpose(0, 2, 4, 1, 3, 5).reshape(th, tw, channels, s * s * features)
    out = _conv(x, taps, padding=((th - 1,) * 2, (tw - 1,) * 2))
    out = out.reshape(batch, qh, qw, s, s * features).transpose(0, 1, 3, 2, 4)
    out = out.reshape(batch, qh * s, qw * s, features)
    out_h, out_w = (output_side(n, k, s, padding) for n, k in ((height, kh), (width, kw)))
    return out[:, padding : padding + out_h, padding : padding + out_w]


def polyphase_grad_x(g, kernel, *, stride: int, padding: int):
    """Returns the gradient with respect to x: a strided convolution of g."""
    kernel, ends = kernel.transpose(0, 1, 3, 2), ((padding,) * 2,) * 2
    if stride == 1:
        return _conv_by_columns(g, kernel, ends)
    return _conv(g, kernel, (stride, stride), ends)


def polyphase_grad_kernel(x, g, kernel_shape, *, stride: int, padding: int):
    """Returns the gradient with respect to the kernel, accumulated image by image.

    So no array is larger than the phases of one image. A batch that is sharded over several CPU
    devices is all-gathered for it.
    """
    kh, kw, channels, features = kernel_shape
    (th, tw), (qh, qw) = _phases(x.shape, kernel_shape, stride)
    s = stride
    bottom, right = (q * s - padding - n for q, n in zip((qh, qw), g.shape[1:3], strict=True))
    g = jnp.pad(g, ((0, 0), (padding, bottom), (padding, right), (0, 0)))

    def add_image(total, pair):
        image, grad = pair
        phases = grad.reshape(qh, s, qw, s, features).transpose(1, 3, 4, 0, 2)
        phases = phases.reshape(s * s * features, qh, qw)
        return total + _convolve(phases[..., None], image[:, :, None]), None

    zeros = jnp.zeros((s * s * features, th, tw, channels), x.dtype)
    total, _ = jax.lax.scan(add_image, zeros, (x, g))
    total = total.reshape(s, s, features, th, tw, channels).transpose(3, 0, 4, 1, 5, 2)
    return total.reshape(th * s, tw * s, channels, features)[:kh, :kw]


def _phases(x_shape, kernel_shape, stride: int):
    """Returns the taps per phase and the positions per phase, along both axes."""
    th, tw = (-(-k // stride) for k in kernel_shape[:2])
    return (th, tw), (x_shape[1] + th - 1, x_shape[2] + tw - 1)


def _conv_by_columns(x, kernel, padding):
    """Convolves n neighbouring columns as one pixel with n times the outputs: the kernel at n
    offsets in a window wider by n - 1, with a column stride of n."""
    kh, kw, channels, features = kernel.shape
    n = EIGEN_CHANNELS // features if kw >= WIDE_KERNEL else 1
    if n < 2:
        return _conv(x, kernel, padding=padding)
    top, (left, right) = padding
    width = x.shape[2] + left + right - kw + 1
    blocks = -(-width // n)
    offsets = [jnp.pad(kernel, ((0, 0), (i, n - 1 - i), (0, 0), (0, 0))) for i in range(n)]
    wide = jnp.stack(offsets, 3).reshape(kh, kw + n - 1, channels, n * features)
    out = _conv(x, wide, (1, n), (top, (left, right + blocks * n - width)))
    return out.reshape(*out.shape[:2], blocks * n, features)[:, :, :width]


def _conv(x, kernel, strides=(1, 1), padding=((0, 0), (0, 0))):
    """Convolves x with kernel. YNNPACK takes four times as long for large maps without padding:
    there one extra row is computed and dropped."""
    if padding != ((0, 0), (0, 0)) or kernel.shape[-1] <= EIGEN_CHANNELS:
        return _convolve(x, kernel, strides, padding)
    return _convolve(x, kernel, strides, ((0, strides[0]), (0, 0)))[:, :-1]


def _convolve(x, kernel, strides=(1, 1), padding=((0, 0), (0, 0))):
    return jax.lax.conv_general_dilated(
        x, kernel, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def transposed_conv_reference(x, kernel, stride: int, padding: int):
    """Computes the definition: every input pixel adds its scaled kernel to the output."""
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
