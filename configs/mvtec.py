"""VT-ADL as the paper trains it on a category of MVTec AD.

python -m vtadl_jax.main --config configs/mvtec.py:screw --config.data.root=DIR
"""

from configs import default


def get_config(category: str = "screw"):
    c = default.get_config()
    c.data.category = category
    c.data.resize = (550, 550)
    return c
