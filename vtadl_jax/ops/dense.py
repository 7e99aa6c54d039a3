"""The product of activations and a float32 weight matrix, computed in a narrower dtype.

A TPU rounds float32 operands to bfloat16 on their way into the matrix unit, so there the weight is
read as it is: a rounded copy costs more traffic than the product. Elsewhere both operands are cast.
The choice is made when a program is lowered; the numbers are the same.
"""

import functools

import jax
import jax.numpy as jnp


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def weight_product(x, kernel, dtype, tokens_last: bool = False):
    """Σ_d x[t, d] · kernel[d, …], operands rounded to `dtype`, sums in float32.

    x: [T, D], kernel: [D, …] float32. Returns [T, …] float32, or […, T] with `tokens_last`.
    The weight's gradient has `dtype`'s accuracy, so that devices exchange no more than that.
    """
    if tokens_last:
        return _product(kernel, x, ((0,), (1,)), dtype)
    return _product(x, kernel, ((1,), (0,)), dtype)


def _product(a, b, contract, dtype):
    """dot_general without batch axes; float32 out."""

    def dot(a, b, precision=None):
        return jax.lax.dot_general(
            a, b, (contract, ((), ())), precision, preferred_element_type=jnp.float32
        )

    def cast(a, b):
        return dot(a.astype(dtype), b.astype(dtype))

    def round_inside(a, b):
        precision = jax.lax.Precision.DEFAULT if dtype == jnp.bfloat16 else None
        return dot(a.astype(jnp.float32), b.astype(jnp.float32), precision)

    return jax.lax.platform_dependent(a, b, tpu=round_inside, default=cast)


def _fwd(x, kernel, dtype, tokens_last):
    return weight_product(x, kernel, dtype, tokens_last), (x, kernel)


def _bwd(dtype, tokens_last, residuals, g):
    x, kernel = residuals
    g = g.astype(dtype)
    outputs = tuple(range(1, kernel.ndim))
    if tokens_last:
        grad_x = _product(g, kernel, (tuple(range(g.ndim - 1)), outputs), dtype)
        tokens = g.ndim - 1
    else:
        grad_x = _product(g, kernel, (outputs, outputs), dtype)
        tokens = 0
    grad_kernel = jax.lax.dot_general(x.astype(dtype), g, (((0,), (tokens,)), ((), ())))
    return grad_x.astype(x.dtype), grad_kernel.astype(kernel.dtype)


weight_product.defvjp(_fwd, _bwd)
