"""The floor: a mixture of Gaussians over hand-made filter responses, fitted without training.

python -m vtadl_jax.main --config configs/floor.py:screw --config.data.root=DIR

`configs/floor.py:elpv` takes the solar cells of `configs/elpv.py`.
"""

from configs import default


def get_config(category: str = ""):
    c = default.get_config()
    choose_data(c, category)
    c.detector = "filter_mixture"
    c.data.channels = 1
    c.image_size = (256, 256)
    c.num_epochs = 0
    c.model.mdn.num_components = 40
    c.model.mdn.feature_dim = 20
    c.eval.term_weights = (1.0, 0.0)
    return c


def choose_data(c, category: str) -> None:
    """A folder of `data.root` in any layout of configs/folder.py, '' the root itself; 'all' the
    categories of one in MVTec's layout; 'elpv' the solar cells."""
    if category == "elpv":
        c.data.source = "elpv"
        c.data.defects = ("p100",)
    else:
        c.data.source = "mvtec_layout" if category == "all" else "folder"
        c.data.category = category
