"""Electroluminescence images of solar cells: train on good cells, find surely defective ones.

python -m vtadl_jax.main --config configs/elpv.py

The images come from the package elpv-dataset, `pip install 'vtadl_jax[elpv]'`, or from a checkout
of it that `data.root` names. `configs/elpv.py:mono` and `:poly` use one kind of cell. Experts gave
each cell a probability of a defect: 0 is normal. The test set has a fifth of the normal cells and
those that `data.defects` selects from p33, p67 and p100. There are no masks, so no pixel metrics.
"""

from vtadl_jax.configs import demo


def get_config(category: str = ""):
    c = demo.small_vtadl(category)
    c.data.source = "elpv"
    c.data.root = ""
    c.data.defects = ("p100",)
    c.data.channels = 1
    return c
