"""VT-ADL with the paper's settings on a product of BTAD, resized without a crop.

python -m vtadl_jax.main --config configs/btad.py:01 --config.data.root=DIR

DIR holds the products 01, 02 and 03 of https://avires.dimi.uniud.it/papers/btad/btad.zip.
"""

from vtadl_jax.experiment import base


def get_config(category: str = "01"):
    c = base("vtadl")
    c.data.source = "btad_layout"
    c.data.category = category
    return c
