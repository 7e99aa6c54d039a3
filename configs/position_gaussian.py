"""Another baseline: a Gaussian for each position, over raw patch statistics, no training.

python -m vtadl_jax.main --config configs/position_gaussian.py:screw --config.data.root=DIR
"""

from vtadl_jax.configs.baseline_filters import choose_data

from vtadl_jax.experiment import base


def get_config(category: str = ""):
    c = base("position_gaussian")
    choose_data(c, category)
    c.data.channels = 1
    c.image_size = (256, 256)
    c.num_epochs = 0
    return c
