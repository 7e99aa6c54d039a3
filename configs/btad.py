"""VT-ADL as the paper trains it on a product of BTAD, scaled without a crop.

python -m vtadl_jax.main --config configs/btad.py:01 --config.data.root=DIR

DIR holds the products 01, 02 and 03 of https://avires.dimi.uniud.it/papers/btad/btad.zip.
"""

from configs import default


def get_config(category: str = "01"):
    c = default.get_config()
    c.data.source = "btad_layout"
    c.data.category = category
    return c
