"""Three experts and one verdict: the first config to try on any set of images.

python -m vtadl_jax.main --config configs/best.py --config.data.root=DIR

DIR holds good images only, or has any layout of configs/folder.py. `configs/best.py:NAME` uses
DIR/NAME, `:all` every category of a folder like MVTec AD's, `:elpv` the cells of configs/elpv.py.
Minutes on two cores. Results and the choice of these numbers: docs/results.md, docs/experiments.md.
"""

from vtadl_jax.configs.baseline_filters import choose_data

from vtadl_jax.experiment import base


def get_config(category: str = ""):
    c = base("experts")
    choose_data(c, category)
    c.data.channels = 0
    c.data.cache = "host"
    c.image_size = (256, 256)
    c.batch_size = 8
    c.num_train_steps = 1800
    c.log_every_steps = 50
    c.model.use = ("context_mdn", "filter_mixture", "position_gaussian")
    c.model.context_mdn.mdn.positions = 256
    c.model.context_mdn.context.radii = (2, 6)
    c.model.context_mdn.context.position = True
    for expert in (c.model.context_mdn, c.model.filter_mixture):
        expert.filters.normalise = True
        expert.filters.color = True
    c.optimizer.learning_rate = 2e-3
    c.optimizer.weight_decay = 0.0
    c.optimizer.schedule = "cosine"
    c.optimizer.warmup_steps = 20
    c.optimizer.clip_norm = 1.0
    c.eval.batch_size = 8
    c.eval.map_sigma = 2.0
    return c
