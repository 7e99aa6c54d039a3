"""VT-ADL as in its authors' PyTorch code, which differs from the paper; on MVTec AD.

python -m vtadl_jax.main --config configs/official.py:screw --config.data.root=DIR

vtadl_jax/detectors/official.py describes the differences. python -m vtadl_jax.import_weights turns
checkpoints of that code into a run of this config.
"""

from vtadl_jax.experiment import base


def get_config(category: str = "screw"):
    c = base("official")
    c.data.category = category
    c.data.resize = (550, 550)
    return c
