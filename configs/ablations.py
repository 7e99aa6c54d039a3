"""VT-ADL as published, at the size of the demo, to change one choice at a time.

python -m vtadl_jax.main --config configs/ablations.py
python -m vtadl_jax.experiments --plan configs/plans/ablations.txt --data DIR --seeds=3
"""

from vtadl_jax.configs import demo


def get_config(category: str = "plate"):
    c = demo.small_vtadl(category)
    c.model.mdn.feature_dim = 16
    c.model.mdn.conditional = True
    c.model.mdn.fixed_features = False
    c.model.mdn.stop_gradient = False
    c.eval.num_pictures = 0
    return c
