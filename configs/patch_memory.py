"""A memory bank of patch features: the distance to the nearest patch of good images; no training.

python -m vtadl_jax.main --config configs/patch_memory.py:screw --config.data.root=DIR

The features are fixed filters; `--config.model.features=efficientnet_lite0 --config.init_from=FILE`
uses a frozen network instead (docs/weights.md).
"""

from vtadl_jax.configs.baseline_filters import choose_data

from vtadl_jax.experiment import base


def get_config(category: str = ""):
    c = base("patch_memory")
    choose_data(c, category)
    c.data.channels = 0
    c.image_size = (256, 256)
    c.num_epochs = 0
    return c
