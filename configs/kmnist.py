"""One character of Kuzushiji-MNIST is normal, the other nine are anomalies.

python -m vtadl_jax.main --config configs/kmnist.py:ki --config.data.root=DIR

The class is a name or a number, 0 to 9: o, ki, su, tsu, na, ha, ma, ya, re, wo. DIR holds the four
idx files; everything else is as in configs/mnist.py.
"""

from vtadl_jax.configs import mnist


def get_config(category: str = "o"):
    c = mnist.get_config(category)
    c.data.source = "kmnist"
    return c
