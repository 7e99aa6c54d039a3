"""A small decoder that learns to reconstruct features of good images, after Dinomaly's idea.

python -m vtadl_jax.main --config configs/feature_reconstruction.py:screw --config.data.root=DIR

The features are fixed filters. `--config.model.features=dinov2_vits14 --config.image_size=252,252
--config.init_from=FILE` reconstructs a frozen encoder's, as published (docs/weights.md).
"""

from vtadl_jax.configs.baseline_filters import choose_data

from vtadl_jax.experiment import base


def get_config(category: str = ""):
    c = base("feature_reconstruction")
    choose_data(c, category)
    c.data.channels = 0
    c.image_size = (256, 256)
    c.batch_size = 8
    c.num_train_steps = 1000
    c.optimizer.learning_rate = 1e-3
    c.optimizer.schedule = "cosine"
    c.optimizer.warmup_steps = 50
    c.optimizer.clip_norm = 1.0
    return c
