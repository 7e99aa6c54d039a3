"""The pyramidal auto-encoder, with the settings of its paper, on one class or category.

python -m vtadl_jax.main --config configs/pyramid_ae.py:mnist-3 --config.data.root=DIR

The sets are mnist, fashion_mnist, kmnist, cifar10, coil100 and mvtec, as mvtec-bottle; `:mnist-all`
runs every class. DIR holds the files of configs/mnist.py, cifar10.py, coil100.py or mvtec.py.
`--config.init_from=RESNET18,VGG11` starts from torchvision's files, as the paper does.
"""

from vtadl_jax.experiment import base

SIDES = {"mnist": 28, "fashion_mnist": 28, "kmnist": 28, "cifar10": 32, "coil100": 120}


def get_config(name: str = "mvtec-bottle"):
    c = base("pyramid_ae")
    choose_set(c, name)
    c.num_epochs = 600
    c.optimizer.learning_rate, c.optimizer.weight_decay = 1e-4, 1e-4
    return c


def choose_set(c, name: str) -> None:
    """Sets source, category, sizes and test set of SET-CATEGORY, as in the thesis."""
    source, _, c.data.category = name.partition("-")
    c.data.source = "mvtec_layout" if source == "mvtec" else source
    side = SIDES.get(source, 120)
    c.image_size = (side, side)
    c.data.channels = 1 if side == 28 else 3
    c.data.balanced_test = source in ("cifar10", "coil100")
    c.data.cache = "host"
    c.batch_size = 32 if side == 120 else 120  # published: 120, more than some categories have
    c.eval.batch_size = 64
    c.eval.map_sigma = 4.0 if side == 120 else 1.0
