"""A small VT-ADL on machined parts that the program draws itself; no download.

python -m vtadl_jax.main --config configs/demo.py
"""

from configs import default


def get_config(category: str = "gear"):
    c = default.get_config()
    c.data.source = "synthetic"
    c.data.root = "demo_data"
    c.data.category = category
    c.image_size = (128, 128)
    c.num_train_steps = 600
    c.model.patch_size = 16
    c.model.width = 128
    c.model.depth = 4
    c.model.num_heads = 4
    c.model.mlp_dim = 256
    c.model.mdn.num_components = 16
    c.model.mdn.feature_dim = 12
    c.optimizer.learning_rate = 1e-3
    c.optimizer.schedule = "cosine"
    c.optimizer.warmup_steps = 50
    c.optimizer.clip_norm = 1.0
    return c
