"""VT-ADL with the paper's settings on a category of MVTec AD.

python -m vtadl_jax.main --config configs/mvtec.py:screw --config.data.root=DIR
"""

from vtadl_jax.experiment import base


def get_config(category: str = "screw"):
    c = base("vtadl")
    c.data.category = category
    c.data.resize = (550, 550)
    return c
