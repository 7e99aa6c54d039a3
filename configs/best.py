"""A density of filter responses told their surroundings: what to try first on any set of images.

python -m vtadl_jax.main --config configs/best.py --config.data.root=DIR

DIR: good images alone, or any layout of configs/folder.py; `configs/best.py:NAME` is DIR/NAME,
`:all` every category of a folder like MVTec AD's, `:elpv` the solar cells of configs/elpv.py. Why
these numbers, and what came out: docs/experiments.md, docs/results.md. Minutes on two cores.
"""

from configs import default
from configs.floor import choose_data


def get_config(category: str = ""):
    c = default.get_config()
    c.detector = "surroundings"
    choose_data(c, category)
    c.data.channels = 0
    c.data.cache = "host"
    c.image_size = (256, 256)
    c.batch_size = 8
    c.num_train_steps = 1800
    c.log_every_steps = 50
    c.model.width = 256
    c.model.mdn.num_components = 8
    c.model.mdn.feature_dim = 12
    c.model.filters.normalise = True
    c.model.filters.radii = (2, 6)
    c.model.filters.windows = (1, 4, 8)
    c.model.filters.position = True
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
