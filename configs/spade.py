"""Nearest good images, and nearest places in them, over a frozen WideResNet-50-2 (SPADE).

python -m vtadl_jax.main --config configs/spade.py:screw --config.data.root=DIR \\
    --config.init_from=FILE

FILE holds the network's weights: torchvision's state dict, or that of
`python -m vtadl_jax.import_weights fetch wide_resnet50_2 --to=DIR`. No training; the features of
320 good images take 1.8 GB.
"""

from vtadl_jax.configs.baseline_filters import choose_data

from vtadl_jax.experiment import base


def get_config(category: str = ""):
    c = base("spade")
    choose_data(c, category)
    c.data.channels = 0
    c.image_size = (224, 224)
    c.num_epochs = 0
    return c
