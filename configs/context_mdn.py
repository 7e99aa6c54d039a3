"""Filter responses conditioned on their context; the first expert of configs/best.py, alone.

python -m vtadl_jax.main --config configs/context_mdn.py --config.data.root=DIR

DIR and the category as in configs/best.py. Minutes on two cores. Results and the choice of these
numbers: docs/results.md, docs/experiments.md.
"""

from vtadl_jax.configs.baseline_filters import choose_data

from vtadl_jax.experiment import base


def get_config(category: str = ""):
    c = base("context_mdn")
    choose_data(c, category)
    c.data.channels = 0
    c.data.cache = "host"
    c.image_size = (256, 256)
    c.batch_size = 8
    c.num_train_steps = 1800
    c.log_every_steps = 50
    c.model.mdn.hidden = 256
    c.model.mdn.num_components = 8
    c.model.mdn.feature_dim = 12
    c.model.filters.normalise = True
    c.model.context.radii = (2, 6)
    c.model.context.windows = (1, 4, 8)
    c.model.context.position = True
    c.model.filters.color = True
    c.optimizer.learning_rate = 2e-3
    c.optimizer.weight_decay = 0.0
    c.optimizer.schedule = "cosine"
    c.optimizer.warmup_steps = 20
    c.optimizer.clip_norm = 1.0
    c.eval.batch_size = 8
    c.eval.map_sigma = 2.0
    c.eval.term_weights = (1.0, 1.0, -1.0)
    return c
