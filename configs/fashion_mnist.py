"""One class of Fashion-MNIST is normal, the other nine are anomalies.

python -m vtadl_jax.main --config configs/fashion_mnist.py:sneaker --config.data.root=DIR

The class is a name or a number, 0 to 9: t-shirt, trouser, pullover, dress, coat, sandal, shirt,
sneaker, bag, ankle_boot. DIR holds the four idx files; everything else is as in configs/mnist.py.
"""

from vtadl_jax.configs import mnist


def get_config(category: str = "t-shirt"):
    c = mnist.get_config(category)
    c.data.source = "fashion_mnist"
    return c
