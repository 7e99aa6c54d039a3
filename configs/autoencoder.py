"""The papers' baseline: a convolutional auto-encoder that reconstructs, and no density.

python -m vtadl_jax.main --config configs/autoencoder.py:screw --config.data.root=DIR

The loss is MSE alone; `--config.loss.ssim_weight=0.5` adds 1 - SSIM. `configs/autoencoder.py:elpv`
takes the solar cells of `configs/elpv.py`.
"""

from configs import default
from configs.floor import choose_data


def get_config(category: str = ""):
    c = default.get_config()
    c.detector = "autoencoder"
    choose_data(c, category)
    c.data.channels = 1
    c.image_size = (256, 256)
    c.batch_size = 16
    c.num_train_steps = 1000
    c.log_every_steps = 50
    c.loss.ssim_weight = 0.0
    c.loss.mse_weight = 1.0
    c.optimizer.learning_rate = 1e-3
    c.optimizer.schedule = "cosine"
    c.optimizer.warmup_steps = 50
    c.optimizer.clip_norm = 1.0
    c.optimizer.weight_decay = 0.0
    c.eval.term_weights = (1.0, 1.0, 0.0)
    return c
