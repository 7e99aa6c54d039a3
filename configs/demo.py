"""A small VT-ADL on machined parts that the program draws itself; no download.

python -m vtadl_jax.main --config configs/demo.py

`configs/demo.py:gear` and `:nut` are the other parts. In place of the paper's mixture per token,
one mixture for all, over fixed directions of tokens that only reconstruction trains: a token asked
to explain itself always can, and here it marks defects worse (docs/method.md).
"""

from configs import default


def get_config(category: str = "plate"):
    c = default.get_config()
    c.data.source = "synthetic"
    c.data.root = "demo_data"
    c.data.category = category
    c.image_size = (128, 128)
    c.num_train_steps = 400
    c.log_every_steps = 20
    c.model.patch_size = 8
    c.model.width = 128
    c.model.depth = 2
    c.model.num_heads = 4
    c.model.mlp_dim = 256
    c.model.mdn.num_components = 16
    c.model.mdn.feature_dim = 32
    c.model.mdn.conditional = False
    c.model.mdn.fixed_features = True
    c.model.mdn.stop_gradient = True
    c.optimizer.learning_rate = 1e-3
    c.optimizer.schedule = "cosine"
    c.optimizer.warmup_steps = 50
    c.optimizer.clip_norm = 1.0
    return c
