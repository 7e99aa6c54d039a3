"""One class of small images is normal: a mixture over whole images, fitted without training steps.

python -m vtadl_jax.main --config configs/image_mixture.py:mnist-3 --config.data.root=DIR

`:mnist-all` runs every class. The sets are mnist, fashion_mnist and kmnist, with the files of
configs/mnist.py.
"""

from vtadl_jax.experiment import base


def get_config(name: str = "mnist-0"):
    c = base("image_mixture")
    c.data.source, _, c.data.category = name.partition("-")
    c.data.channels = 1
    c.image_size = (28, 28)
    c.num_epochs = 0
    c.model.mdn.num_components = 8
    c.model.mdn.feature_dim = 64
    c.eval.batch_size = 64
    c.eval.map_sigma = 1.0
    c.eval.term_weights = (1.0, 0.0)
    return c
