"""The baseline: a Gaussian mixture over fixed filter responses, fitted without training steps.

python -m vtadl_jax.main --config configs/baseline_filters.py:screw --config.data.root=DIR

`configs/baseline_filters.py:elpv` uses the solar cells of `configs/elpv.py`.
"""

from vtadl_jax.experiment import base


def get_config(category: str = ""):
    c = base("filter_mixture")
    choose_data(c, category)
    c.data.channels = 1
    c.image_size = (256, 256)
    c.num_epochs = 0
    c.model.mdn.num_components = 40
    c.model.mdn.feature_dim = 20
    c.eval.term_weights = (1.0, 0.0)
    return c


def choose_data(c, category: str) -> None:
    """Sets source and category: a folder of `data.root` in any layout of configs/folder.py ('': the
    root itself), 'all' the categories of a folder in MVTec's layout, 'elpv' the solar cells."""
    if category == "elpv":
        c.data.source = "elpv"
        c.data.defects = ("p100",)
    else:
        c.data.source = "mvtec_layout" if category == "all" else "folder"
        c.data.category = category
