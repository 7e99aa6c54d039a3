"""A Gaussian for each position over a frozen ConTNet-B's features (Dini and Rahtu, 2023).

python -m vtadl_jax.main --config configs/contnet_gaussian.py:screw --config.data.root=DIR \\
    --config.init_from=FILE

FILE is the state dict of the authors of ConTNet (docs/methods/contnet_gaussian.md). No training.
For parts that have the same place in every image. The paper's words name other layers:
--config.model.contnet.layers=layer3,layer4
"""

from vtadl_jax.configs.baseline_filters import choose_data

from vtadl_jax.experiment import base


def get_config(category: str = ""):
    c = base("contnet_gaussian")
    choose_data(c, category)
    c.data.channels = 0
    c.image_size = (224, 224)
    c.num_epochs = 0
    return c
