"""A small VT-ADL on machined parts that the program draws itself; no download.

python -m vtadl_jax.main --config configs/demo.py

`configs/demo.py:gear` and `:nut` are the other parts. The paper conditions the mixture on the same
token that it models. Here one mixture is shared by all tokens, over fixed projections, and only the
reconstruction trains the encoder, which localizes these defects better (docs/results.md).
"""

from vtadl_jax.experiment import base


def get_config(category: str = "plate"):
    c = base("vtadl")
    c.data.source = "synthetic"
    c.data.root = "demo_data"
    c.data.category = category
    c.image_size = (128, 128)
    c.num_train_steps = 400
    c.log_every_steps = 20
    c.model.vit.patch_size = 8
    c.model.vit.width = 128
    c.model.vit.depth = 2
    c.model.vit.num_heads = 4
    c.model.vit.mlp_dim = 256
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
