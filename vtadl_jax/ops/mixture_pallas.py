"""The rows-first mixture as TPU kernels: one pass over the parameters forward, one backward.

A block of components and tokens is whitened, squared and added to a running log-sum-exp while it is
in VMEM; the backward kernel whitens it again and writes every gradient, so that no array of the
size of the parameters is kept between the two. Finished rows stay in registers. Programs for other
platforms get the XLA implementation of `mixture_rows.py`. XLA cannot partition a kernel over a
mesh: there, call it in `jax.shard_map` over the token axis.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from vtadl_jax.errors import UserError
from vtadl_jax.ops.mixture_factors import FactorOf, tril_size
from vtadl_jax.ops.mixture_rows import log_density, log_prob_rows, unwhiten, whiten
from vtadl_jax.ops.platform import by_platform

SUBLANES, LANES = 8, 128
# Out of the 16 MiB that a kernel may use: blocks of arguments and results, double-buffered.
VMEM_BYTES = 12 * 2**20


@functools.partial(jax.custom_vjp, nondiff_argnums=(5, 6))
def kernel_log_prob_rows(
    logits, loc, scale_diag, scale_lower, y, factor_of: FactorOf, interpret: bool = False
):
    """Returns the log-likelihood [T] of tokens y [d, T], d > 1, by the kernels.

    Arguments as of `mixture_log_prob_rows`. interpret: run the kernels in Pallas' interpreter, on
    any platform.

    Raises:
      UserError: a d whose smallest block does not fit into VMEM (d above 37).
    """
    return _fwd(logits, loc, scale_diag, scale_lower, y, factor_of, interpret)[0]


def _fwd(logits, loc, scale_diag, scale_lower, y, factor_of, interpret):
    args = (logits, loc, scale_diag, scale_lower, y)
    kernel = functools.partial(_forward, factor_of=factor_of, interpret=interpret)
    _block_tokens(y.shape[0], y.shape[1], copies=2)  # raises on every platform, not only on TPUs

    def xla(logits, loc, scale_diag, scale_lower, y):
        log_prob = log_prob_rows(logits, loc, scale_diag, scale_lower, y, factor_of)
        return log_prob, jax.nn.logsumexp(logits, axis=0)

    log_prob, normaliser = kernel(*args) if interpret else _on_tpu(kernel, xla, *args)
    return log_prob, (*args, log_prob, normaliser)


def _bwd(factor_of, interpret, residuals, g):
    def kernel(*args):
        return _backward(*args, factor_of=factor_of, interpret=interpret)

    def xla(logits, loc, scale_diag, scale_lower, y, log_prob, normaliser, g):
        args = (logits, loc, scale_diag, scale_lower, y)
        return jax.vjp(functools.partial(log_prob_rows, factor_of=factor_of), *args)[1](g)

    return kernel(*residuals, g) if interpret else _on_tpu(kernel, xla, *residuals, g)


kernel_log_prob_rows.defvjp(_fwd, _bwd)


def _on_tpu(kernel, xla, *args):
    return by_platform(*args, tpu=kernel, default=xla)


def _block_tokens(d: int, t: int, copies: int) -> int:
    """Returns the tokens per block such that `copies` of its parameters fit, double-buffered."""
    row_bytes = 2 * 4 * SUBLANES * (tril_size(d) + 2 * d + 1)
    for tokens in (512, 256, 128):
        if copies * row_bytes * tokens <= VMEM_BYTES:
            return min(tokens, pl.cdiv(t, LANES) * LANES)
    raise UserError(f"d {d}: no room for the kernel's blocks in VMEM: use implementation='xla'")


def _specs(d: int, tokens: int):
    """Returns block specs of the five arguments and of a row of tokens [1, T].

    The grid is (blocks of tokens, blocks of components), components innermost.
    """

    def slabs(rows):
        return pl.BlockSpec((rows, SUBLANES, tokens), lambda i, j: (0, j, i))

    def shared(rows):
        return pl.BlockSpec((rows, tokens), lambda i, j: (0, i))

    logits = pl.BlockSpec((SUBLANES, tokens), lambda i, j: (j, i))
    return [logits, slabs(d), slabs(d), slabs(tril_size(d)), shared(d)], shared(1)


def _call(kernel, args, in_specs, outs, out_specs, tokens, num_scratch, passes, interpret):
    (k, t), d = args[0].shape, len(args[1])
    entries = k * t * (tril_size(d) + 2 * d + 1)
    return pl.pallas_call(
        functools.partial(kernel, num_components=k),
        grid=(pl.cdiv(t, tokens), pl.cdiv(k, SUBLANES)),
        in_specs=in_specs,
        out_specs=out_specs,
        out_shape=[jax.ShapeDtypeStruct(shape, args[0].dtype) for shape in outs],
        scratch_shapes=[pltpu.VMEM((SUBLANES, tokens), args[0].dtype)] * num_scratch,
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "arbitrary")),
        cost_estimate=pl.CostEstimate(
            flops=2 * passes**2 * entries,
            transcendentals=k * t * (d + 4),
            bytes_accessed=4 * passes * entries,
        ),
        interpret=interpret,
    )(*args)


def _strips(tokens: int, body):
    """Calls body(lanes) for each strip of one register's width in a block."""

    def step(i, _):
        body(pl.ds(pl.multiple_of(i * LANES, LANES), LANES))
        return 0

    jax.lax.fori_loop(0, tokens // LANES, step, 0)


def _whitened(refs, lanes, factor_of):
    """Returns tiles [8, 128] of a strip: residual, diag and z as lists of d, and lower(i, j)."""
    _, loc, scale_diag, scale_lower, y = refs
    d = len(loc)
    residual = [y[i : i + 1, lanes] - loc[i, :, lanes] for i in range(d)]
    diag = [scale_diag[i, :, lanes] for i in range(d)]

    def lower(i, j):
        return scale_lower[tril_size(i) + j, :, lanes]

    return residual, diag, lower, whiten(residual, diag, lower, factor_of)


def _is_component(num_components: int):
    """Returns a mask [8, 128], False in the last block's rows beyond the number of components."""
    row = jax.lax.broadcasted_iota(jnp.int32, (SUBLANES, LANES), 0)
    return pl.program_id(1) * SUBLANES + row < num_components


def _forward(logits, loc, scale_diag, scale_lower, y, *, factor_of, interpret):
    args = (logits, loc, scale_diag, scale_lower, y)
    d, t = y.shape
    tokens = _block_tokens(d, t, 1)
    in_specs, row = _specs(d, tokens)

    def kernel(*refs, num_components):
        args, (log_prob, normaliser), running = refs[:5], refs[5:7], refs[7:]
        joint_sums, logit_sums = running[:2], running[2:]

        @pl.when(pl.program_id(1) == 0)
        def _():
            for top, total in (joint_sums, logit_sums):
                top[...] = jnp.full_like(top, -jnp.inf)
                total[...] = jnp.zeros_like(total)

        valid = _is_component(num_components)

        def strip(lanes):
            _, diag, _, z = _whitened(args, lanes, factor_of)
            logit = jnp.where(valid, args[0][:, lanes], -jnp.inf)
            joint = jnp.where(valid, logit + log_density(z, diag, factor_of), -jnp.inf)
            for (top, total), new in ((joint_sums, joint), (logit_sums, logit)):
                _accumulate(top, total, lanes, new)

        _strips(tokens, strip)

        @pl.when(pl.program_id(1) == pl.num_programs(1) - 1)
        def _():
            normaliser[...] = _log_sum(*logit_sums)
            log_prob[...] = _log_sum(*joint_sums) - normaliser[...]

    outs = _call(kernel, args, in_specs, [(1, t)] * 2, [row] * 2, tokens, 4, 1, interpret)
    return tuple(out[0] for out in outs)


def _accumulate(top, total, lanes, new):
    """Updates a running log-sum-exp, Σ exp = total · exp(top), elementwise over a block."""
    before = top[:, lanes]
    after = jnp.maximum(before, new)
    finite = jnp.where(after == -jnp.inf, 0, after)
    total[:, lanes] = total[:, lanes] * jnp.exp(before - finite) + jnp.exp(new - finite)
    top[:, lanes] = after


def _log_sum(top, total):
    highest = top[...].max(0, keepdims=True)
    return highest + jnp.log((total[...] * jnp.exp(top[...] - highest)).sum(0, keepdims=True))


def _backward(
    logits, loc, scale_diag, scale_lower, y, log_prob, normaliser, g, *, factor_of, interpret
):
    """Returns the gradients of the five arguments; formulas as in `mixture_rows.py`."""
    args = (logits, loc, scale_diag, scale_lower, y)
    rows = tuple(a[None] for a in (log_prob, normaliser, g))
    d, t = y.shape
    tokens = _block_tokens(d, t, 2)
    in_specs, row = _specs(d, tokens)

    def kernel(*refs, num_components):
        args, (log_prob, normaliser, g), grads = refs[:5], refs[5:8], refs[8:]
        grad_logits, grad_loc, grad_diag, grad_lower, grad_y = grads
        valid = _is_component(num_components)

        @pl.when(pl.program_id(1) == 0)
        def _():
            grad_y[...] = jnp.zeros_like(grad_y)

        def strip(lanes):
            residual, diag, lower, z = _whitened(args, lanes, factor_of)
            log_weight = args[0][:, lanes] - normaliser[:, lanes]
            joint = log_weight + log_density(z, diag, factor_of)
            weight = jnp.where(valid, jnp.exp(joint - log_prob[:, lanes]) * g[:, lanes], 0)
            grad_logits[:, lanes] = weight - jnp.exp(log_weight) * g[:, lanes]
            v = unwhiten(z, diag, lower, factor_of)
            for i in range(d):
                gv = weight * v[i]
                left, sign = (gv, 1) if factor_of == "covariance" else (-weight * residual[i], -1)
                grad_loc[i, :, lanes] = gv
                grad_y[i : i + 1, lanes] -= jnp.where(valid, gv, 0).sum(0, keepdims=True)
                grad_diag[i, :, lanes] = left * z[i] - sign * weight / diag[i]
                for j in range(i):
                    grad_lower[tril_size(i) + j, :, lanes] = left * z[j]

        _strips(tokens, strip)

    outs = [a.shape for a in args]
    grads = _call(
        kernel, (*args, *rows), [*in_specs, row, row, row], outs, in_specs, tokens, 0, 2, interpret
    )
    return tuple(grads)
