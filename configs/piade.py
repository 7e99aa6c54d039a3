"""PIADE as its thesis describes it, with the settings of table 5.1, on a class or a category.

python -m vtadl_jax.main --config configs/piade.py:mvtec-bottle --config.data.root=DIR

The sets and DIR are those of configs/pyramid_ae.py; the thesis has cifar10, coil100 and mvtec.
`--config.init_from=RESNET18,VGG11` starts from torchvision's files; without them both networks
start from random values. configs/piade_official.py is the network of the authors' program.
"""

from vtadl_jax.configs.pyramid_ae import choose_set

from vtadl_jax.experiment import base


def get_config(name: str = "mvtec-bottle"):
    c = base("piade")
    choose_set(c, name)
    c.num_epochs = 400
    c.optimizer.learning_rate = 1e-3
    c.optimizer.weight_decay = 1e-4
    return c
