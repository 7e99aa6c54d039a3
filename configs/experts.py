"""Several cheap detectors with one verdict: no training steps.

python -m vtadl_jax.main --config configs/experts.py:screw --config.data.root=DIR
"""

from vtadl_jax.configs.baseline_filters import choose_data

from vtadl_jax.experiment import base


def get_config(category: str = ""):
    c = base("experts")
    choose_data(c, category)
    c.data.channels = 0
    c.image_size = (256, 256)
    c.num_epochs = 0
    c.eval.map_sigma = 2.0
    return c
