"""The principal subspace of good patches' features: the distance of a patch from it; no training.

python -m vtadl_jax.main --config configs/subspace.py:screw --config.data.root=DIR

The features are fixed filters. The published method uses a DINOv2 (docs/methods/subspace.md):
`--config.model.features=dinov2_vits14_reg --config.model.encoder.blocks=7,8
--config.model.encoder.norm=False --config.model.subspace.standardise=False
--config.image_size=448,448 --config.init_from=FILE`.
"""

from vtadl_jax.configs.baseline_filters import choose_data

from vtadl_jax.experiment import base


def get_config(category: str = ""):
    c = base("subspace")
    choose_data(c, category)
    c.data.channels = 0
    c.image_size = (256, 256)
    c.num_epochs = 0
    return c
