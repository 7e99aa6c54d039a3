"""The optimizer: Adam with the paper's L2 weight decay, a schedule and optional clipping."""

import optax

from vtadl_jax.config import OptimizerOptions


def learning_rate_schedule(options: OptimizerOptions, num_steps: int) -> optax.Schedule:
    """Returns the schedule, step → learning rate, for a run of `num_steps`."""
    peak, warmup = options.learning_rate, options.warmup_steps
    if options.schedule == "constant":
        after = optax.constant_schedule(peak)
    else:
        after = optax.cosine_decay_schedule(peak, max(num_steps - warmup, 1))
    if warmup == 0:
        return after
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), after], [warmup])


def make_optimizer(options: OptimizerOptions, num_steps: int) -> optax.GradientTransformation:
    """Returns Adam as `torch.optim.Adam(weight_decay=…)` defines it.

    The decay is added to the gradient, before the moments (L2), not to the update as in AdamW.
    Gradient clipping comes before both.
    """
    steps = [optax.clip_by_global_norm(options.clip_norm)] if options.clip_norm > 0 else []
    if options.weight_decay > 0:
        steps.append(optax.add_decayed_weights(options.weight_decay))
    schedule = learning_rate_schedule(options, num_steps)
    return optax.chain(*steps, optax.scale_by_adam(), optax.scale_by_learning_rate(schedule))
