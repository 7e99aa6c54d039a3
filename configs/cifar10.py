"""One class of CIFAR-10 is normal, the other nine are anomalies (thesis 5.2.2); minutes on a CPU.

python -m vtadl_jax.main --config configs/cifar10.py:ship --config.data.root=DIR

The class is a name or a number, 0 to 9: airplane, automobile, bird, cat, deer, dog, frog, horse,
ship, truck. DIR holds the binary or the Python version, unpacked. As in the thesis, the test set
has as many anomalies as normal images; `--config.data.balanced_test=False` tests on all 10,000. The
image score uses the reconstruction only, as the paper does for MNIST.
"""

from vtadl_jax.configs import mnist


def get_config(category: str = "airplane"):
    c = mnist.get_config(category)
    c.data.source = "cifar10"
    c.data.channels = 3
    c.data.balanced_test = True
    c.image_size = (32, 32)
    c.model.vit.patch_size = 8
    return c
