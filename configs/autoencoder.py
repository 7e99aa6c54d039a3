"""The papers' baseline: a convolutional auto-encoder, without a density.

python -m vtadl_jax.main --config configs/autoencoder.py:screw --config.data.root=DIR

The loss is MSE; `--config.model.loss.ssim_weight=0.5` adds 1 - SSIM. `configs/autoencoder.py:elpv`
uses the solar cells of `configs/elpv.py`.
"""

from vtadl_jax.configs.baseline_filters import choose_data

from vtadl_jax.experiment import base


def get_config(category: str = ""):
    c = base("autoencoder")
    choose_data(c, category)
    c.data.channels = 1
    c.image_size = (256, 256)
    c.batch_size = 16
    c.num_train_steps = 1000
    c.log_every_steps = 50
    c.model.loss.ssim_weight = 0.0
    c.model.loss.mse_weight = 1.0
    c.optimizer.learning_rate = 1e-3
    c.optimizer.schedule = "cosine"
    c.optimizer.warmup_steps = 50
    c.optimizer.clip_norm = 1.0
    c.optimizer.weight_decay = 0.0
    c.eval.term_weights = (1.0, 1.0, 0.0)
    return c
