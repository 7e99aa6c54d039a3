"""Solar cells in electroluminescence: train on sound ones, find those that are surely defective.

python -m vtadl_jax.main --config configs/elpv.py

The images come from the package elpv-dataset, `pip install 'vtadl_jax[elpv]'`, or from a checkout
of it that `data.root` names. `configs/elpv.py:mono` and `:poly` take one kind of cell. Experts gave
every cell a probability of a defect: 0 is normal, and `data.defects` chooses what to test on beside
a fifth of the normal ones, out of p33, p67 and p100. Labels of images only: no metrics of pixels.
"""

from configs import demo


def get_config(category: str = ""):
    c = demo.get_config(category)
    c.data.source = "elpv"
    c.data.root = ""
    c.data.defects = ("p100",)
    c.data.channels = 1
    return c
