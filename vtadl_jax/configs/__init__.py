"""Experiment files: those of the checkout, or those installed with the package.

A config file of yours starts from one of them, `from vtadl_jax.configs import best`, or from the
defaults, `from vtadl_jax.experiment import base`.
"""

from pathlib import Path

_CHECKOUT = Path(__file__).resolve().parents[2] / "configs"
if (_CHECKOUT / "mvtec.py").is_file():
    __path__ = [str(_CHECKOUT)]
