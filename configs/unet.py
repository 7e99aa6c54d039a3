"""A small U-Net that learns from masks: for sets that have defective images with masks.

python -m vtadl_jax.main --config configs/unet.py:screw --config.data.root=DIR

One defective test image for every ten good training images, in proportion from each kind of defect,
moves to the training set and is not tested on; `--config.data.anomaly_fraction` sets the number.
"""

from vtadl_jax.configs.baseline_filters import choose_data

from vtadl_jax.experiment import base


def get_config(category: str = ""):
    c = base("unet")
    choose_data(c, category)
    c.data.channels = 0
    c.data.cache = "host"
    c.data.anomaly_fraction = 0.1
    c.data.repeat_anomalies = True
    c.data.augment.flip_horizontal = True
    c.data.augment.rotation_degrees = 10.0
    c.image_size = (128, 128)
    c.batch_size = 8
    c.num_train_steps = 600
    c.log_every_steps = 20
    c.optimizer.learning_rate = 1e-3
    c.optimizer.schedule = "cosine"
    c.optimizer.warmup_steps = 20
    c.optimizer.weight_decay = 0.0
    c.eval.map_sigma = 1.0
    return c
