"""One digit of MNIST is normal, the other nine are anomalies, as in the paper; minutes on a CPU.

python -m vtadl_jax.main --config configs/mnist.py:3 --config.data.root=DIR

DIR holds the four idx files, '.gz' or not. The 28×28 pixels are used as they are: 7-pixel patches
and a decoder that starts at 7×7 divide them. As in the paper, the image score uses the
reconstruction only. `--config.data.anomaly_fraction=0.01` is the supervised protocol of the thesis,
with a few anomalies among the training images.
"""

from vtadl_jax.experiment import base


def get_config(category: str = "0"):
    c = base("vtadl")
    c.data.source = "mnist"
    c.data.category = category
    c.data.channels = 1
    c.image_size = (28, 28)
    c.batch_size = 32
    c.num_train_steps = 1500
    c.log_every_steps = 50
    c.model.vit.patch_size = 7
    c.model.vit.width = 128
    c.model.vit.depth = 2
    c.model.vit.num_heads = 4
    c.model.vit.mlp_dim = 256
    c.model.mdn.num_components = 16
    c.model.mdn.feature_dim = 8
    c.optimizer.learning_rate = 1e-3
    c.optimizer.schedule = "cosine"
    c.optimizer.warmup_steps = 50
    c.optimizer.clip_norm = 1.0
    c.eval.batch_size = 64
    c.eval.map_sigma = 1.0
    c.eval.term_weights = (1.0, 1.0, 0.0)
    return c
