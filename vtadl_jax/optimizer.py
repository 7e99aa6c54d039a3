"""The optimiser: Adam with the paper's L2 weight decay; schedule and clipping by option."""

import optax
from ml_collections import ConfigDict

from vtadl_jax.errors import UserError


def learning_rate_schedule(config: ConfigDict, num_steps: int) -> optax.Schedule:
    """step → learning rate over a run of `num_steps`."""
    peak, warmup = config.learning_rate, config.warmup_steps
    if config.schedule == "constant":
        after = optax.constant_schedule(peak)
    elif config.schedule == "cosine":
        after = optax.cosine_decay_schedule(peak, max(num_steps - warmup, 1))
    else:
        raise UserError(f"optimizer.schedule {config.schedule!r}: use 'constant' or 'cosine'")
    if warmup == 0:
        return after
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), after], [warmup])


def make_optimizer(config: ConfigDict, num_steps: int) -> optax.GradientTransformation:
    """Adam as `torch.optim.Adam(weight_decay=…)`: the decay is added to the gradient, before the
    moments (L2), not to the update as AdamW does. Clipping comes before both.
    """
    steps = [optax.clip_by_global_norm(config.clip_norm)] if config.clip_norm > 0 else []
    if config.weight_decay > 0:
        steps.append(optax.add_decayed_weights(config.weight_decay))
    schedule = learning_rate_schedule(config, num_steps)
    return optax.chain(*steps, optax.scale_by_adam(), optax.scale_by_learning_rate(schedule))
