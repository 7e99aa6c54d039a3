"""VT-ADL as its authors' PyTorch code has it, which differs from the paper; on MVTec AD.

python -m vtadl_jax.main --config configs/official.py:screw --config.data.root=DIR

What differs, and what the paper says instead: vtadl_jax/models/official.py. Checkpoints of that
code run here after python -m vtadl_jax.import_torch, whose default this config is.
"""

from configs import mvtec


def get_config(category: str = "screw"):
    c = mvtec.get_config(category)
    c.detector = "official"
    c.model.decoder.features = (16, 32, 32, 16, 8)
    c.model.mdn.num_components = 10
    c.model.mdn.feature_dim = 512  # whole tokens
    c.model.mdn.covariance = "diag"
    c.model.mdn.noisy_features = True
    c.model.mdn.scale_floor = 0.0
    return c
