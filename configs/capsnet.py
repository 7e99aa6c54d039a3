"""CapsNet trained on one class of small images and a few labelled anomalies (thesis, chapter 3).

python -m vtadl_jax.main --config configs/capsnet.py:mnist-3 --config.data.root=DIR

`:mnist-all` runs every class; the sets are mnist, fashion_mnist, kmnist (the files of
configs/mnist.py) and cifar10. Anomalies are a tenth of the normal training images, for example
`--config.data.anomaly_fraction=0.01` takes fewer. The test set is that of the thesis, at most 1,024
images of each kind; `--config.data.test_limit=10000` takes all of them.
"""

from vtadl_jax.experiment import base

# Mean and standard deviation of the training images in [0, 1].
STATISTICS = {
    "mnist": ((0.1307,), (0.3081,)),
    "fashion_mnist": ((0.2860,), (0.3530,)),
    "kmnist": ((0.1918,), (0.3483,)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
}


def get_config(name: str = "mnist-0"):
    c = base("capsnet")
    c.data.source, _, c.data.category = name.partition("-")
    c.model.mean, c.model.std = STATISTICS.get(c.data.source, ((0.5,), (0.5,)))
    colour = c.data.source == "cifar10"
    c.data.channels, c.image_size = (3, (32, 32)) if colour else (1, (28, 28))
    c.data.anomaly_fraction = 0.1
    c.data.test_limit = 1024
    c.data.holdout_fraction = 0.02
    c.data.cache = "host"
    c.batch_size = 32
    c.num_epochs = 10
    c.log_every_steps = 50
    c.optimizer.learning_rate = 1e-3
    c.optimizer.warmup_steps = 100
    c.optimizer.weight_decay = 0.0
    c.eval.batch_size = 64
    c.eval.map_sigma = 1.0
    return c
