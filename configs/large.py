"""Large images with small defects: a mixture over filter responses, by overlapping windows.

python -m vtadl_jax.main --config configs/large.py --config.data.root=DIR

DIR has any layout of configs/folder.py. Windows of 512 pixels are scored at 256; for defects that
are smaller still, --config.data.windows.side=256; for large ones beside them,
--config.data.windows.scales=1,0.25. Docs: docs/large-images.md.
"""

from vtadl_jax.configs.baseline_filters import choose_data

from vtadl_jax.experiment import base


def get_config(category: str = ""):
    c = base("filter_mixture")
    choose_data(c, category)
    c.data.channels = 0
    c.data.windows.side = 512
    c.data.orientations = "none"
    c.image_size = (256, 256)
    c.num_epochs = 0
    c.model.mdn.num_components = 40
    c.model.mdn.feature_dim = 20
    c.eval.batch_size = 16
    c.eval.map_sigma = 2.0
    return c
