"""One class of small images is normal: a mixture over whole images, fitted without training.

python -m vtadl_jax.main --config configs/image_mixture.py:mnist-3 --config.data.root=DIR

`:mnist-all` runs every class; the sets are mnist, fashion_mnist and kmnist, of the files that
configs/mnist.py takes.
"""

from configs import default


def get_config(name: str = "mnist-0"):
    c = default.get_config()
    c.detector = "image_mixture"
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
