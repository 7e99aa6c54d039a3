"""The other floor: a Gaussian for each place, over raw patch statistics, fitted without training.

python -m vtadl_jax.main --config configs/positions.py:screw --config.data.root=DIR
"""

from configs import floor


def get_config(category: str = ""):
    c = floor.get_config(category)
    c.detector = "position_gaussian"
    return c
