"""Products of activations and weights, with an implementation for each back end.

`weight_product` is for wide float32 weights. A TPU rounds float32 operands to bfloat16 on their way
into the matrix unit, so there the weight is not cast: a rounded copy costs more traffic than the
product. Elsewhere both operands are cast. `dense_dot_general` is for a network's layers. XLA's CPU
compiler copies operands that it has to transpose, so there gradients are products that need no
transposition. The choice is made when a program is lowered; the results are the same.
"""

import functools
import math

import jax
import jax.numpy as jnp

from vtadl_jax.ops.outline import outlined
from vtadl_jax.ops.platform import by_platform


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def weight_product(x, kernel, dtype, tokens_last: bool = False):
    """Returns Σ_d x[t, d] · kernel[d, …], operands rounded to `dtype`, sums in float32.

    x: [T, D], kernel: [D, …] float32. Returns [T, …] float32, or […, T] with `tokens_last`.
    The weight's gradient has the accuracy of `dtype`, which halves its all-reduce for bfloat16.
    """
    if tokens_last:
        return by_platform(
            kernel,
            x,
            cpu=lambda kernel, x: _rows(kernel, x, dtype),
            default=lambda kernel, x: _product(kernel, x, ((0,), (1,)), dtype),
        )
    return _product(x, kernel, ((1,), (0,)), dtype)


def _product(a, b, contract, dtype):
    """Returns dot_general without batch axes, in float32."""

    def dot(a, b, precision=None):
        return jax.lax.dot_general(
            a, b, (contract, ((), ())), precision, preferred_element_type=jnp.float32
        )

    def cast(a, b):
        return dot(a.astype(dtype), b.astype(dtype))

    def round_inside(a, b):
        precision = jax.lax.Precision.DEFAULT if dtype == jnp.bfloat16 else None
        return dot(a.astype(jnp.float32), b.astype(jnp.float32), precision)

    return by_platform(a, b, tpu=round_inside, default=cast)


def _rows(kernel, x, dtype):
    """Returns Σ_d kernel[d, …] · x[t, d]; the flat kernel needs no transposition on the CPU."""
    flat = kernel.reshape(len(kernel), -1).astype(dtype)
    out = _dot(flat, x.astype(dtype), 0, 1, jnp.float32)
    return out.reshape(*kernel.shape[1:], x.shape[0])


def _fwd(x, kernel, dtype, tokens_last):
    return weight_product(x, kernel, dtype, tokens_last), (x, kernel)


def _bwd(dtype, tokens_last, residuals, g):
    grads = _gradients_of_rows if tokens_last else _gradients
    x, kernel = residuals
    grad_x, grad_kernel = grads(x, kernel, g.astype(dtype), dtype)
    return grad_x.astype(x.dtype), grad_kernel.astype(kernel.dtype)


weight_product.defvjp(_fwd, _bwd)


def _gradients(x, kernel, g, dtype):
    """Gradients of x and kernel. x: [T, D], kernel: [D, …], g: [T, …]."""
    outputs = tuple(range(1, kernel.ndim))
    return _product(g, kernel, (outputs, outputs), dtype), _dot(x.astype(dtype), g, 0, 0)


def _gradients_of_rows(x, kernel, g, dtype):
    """Gradients of x and kernel, tokens last. x: [T, D], kernel: [D, …], g: […, T]."""
    tokens = g.ndim - 1

    def in_place(x, kernel, g):
        rows = g.reshape(-1, g.shape[-1])
        flat = kernel.reshape(len(kernel), -1).astype(dtype)
        grad_x = jnp.transpose(_dot(flat, rows, 1, 0, jnp.float32))
        grad_kernel = _dot(outlined(jnp.transpose)(x.astype(dtype)), rows, 1, 1)
        return grad_x, grad_kernel.reshape(kernel.shape)

    def transposing(x, kernel, g):
        contract = tuple(range(tokens)), tuple(range(1, kernel.ndim))
        return _product(g, kernel, contract, dtype), _dot(x.astype(dtype), g, 0, tokens)

    return by_platform(x, kernel, g, cpu=in_place, default=transposing)


def _dot(a, b, axis_a: int, axis_b: int, out_dtype=None):
    """Contracts one axis of each; the other axes keep their order."""
    contract = (((axis_a,), (axis_b,)), ((), ()))
    return jax.lax.dot_general(a, b, contract, preferred_element_type=out_dtype)


def dense_dot_general(x, kernel, dimension_numbers, precision=None, preferred_element_type=None):
    """Replaces `jax.lax.dot_general` in flax's dense layers.

    Contracts the trailing axes of x [..., *D] with the leading axes of kernel [*D, *F]. Returns
    [..., *F].
    """
    options = {"precision": precision, "preferred_element_type": preferred_element_type}
    contracted = len(dimension_numbers[0][0])
    batch, inner = x.shape[: x.ndim - contracted], kernel.shape[:contracted]
    outputs = kernel.shape[contracted:]
    assert dimension_numbers[0] == (
        tuple(range(len(batch), x.ndim)),
        tuple(range(contracted)),
    )

    def flat(x, kernel):
        rows = x.reshape(-1, math.prod(inner))
        return _matmul(rows, kernel.reshape(rows.shape[1], -1)).reshape(*batch, *outputs)

    def native(x, kernel):
        return jax.lax.dot_general(x, kernel, dimension_numbers, **options)

    return by_platform(x, kernel, cpu=flat, default=native)


@jax.custom_vjp
def _matmul(x, kernel):
    return _dot(x, kernel, 1, 0)


def _matmul_bwd(residuals, g):
    x, kernel = residuals
    return _dot(g, kernel, 1, 1), _dot(x, g, 0, 0)


_matmul.defvjp(lambda x, kernel: (_matmul(x, kernel), (x, kernel)), _matmul_bwd)
