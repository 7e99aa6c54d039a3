"""A Gaussian for each position over a frozen ResNet-18's features, as in PaDiM; no training.

python -m vtadl_jax.main --config configs/padim.py:screw --config.data.root=DIR \\
    --config.init_from=FILE

FILE holds the network's weights: `python -m vtadl_jax.import_weights fetch resnet18 --to=DIR`, or
torchvision's state dict (docs/weights.md). For parts that have the same place in every image.
"""

from vtadl_jax.configs.baseline_filters import choose_data

from vtadl_jax.experiment import base


def get_config(category: str = ""):
    c = base("position_gaussian")
    choose_data(c, category)
    c.data.channels = 0
    c.image_size = (256, 256)
    c.num_epochs = 0
    c.model.features = "resnet18"
    return c
