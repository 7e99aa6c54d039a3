"""Machined parts that the program draws itself, and a method that finds their defects in seconds.

python -m vtadl_jax.main --config configs/demo.py

A Gaussian mixture over filter responses of plates; `configs/demo.py:gear` and `:nut` are other
parts. `configs/demo.py:vtadl` trains a small VT-ADL on them instead.
"""

from vtadl_jax.experiment import base


def get_config(argument: str = ""):
    method, _, category = argument.partition("-")
    if method == "vtadl":
        c = small_vtadl(category or "plate")
        c.model.mdn.update(num_components=40, learning="em")
        c.eval.map_sigma = 2.0
        return c
    c = drawn("filter_mixture", argument or "plate")
    c.data.channels, c.num_epochs, c.eval.cross_fit = 1, 0, "off"  # one fit, not eleven
    c.model.filters.stride = 4
    c.model.mdn.update(num_components=40, feature_dim=20)
    return c


def small_vtadl(category: str):  # one mixture for all tokens; it does not train the encoder
    c = drawn("vtadl", category)
    c.num_train_steps, c.log_every_steps = 400, 20
    c.model.vit.update(patch_size=8, width=128, depth=2, num_heads=4, mlp_dim=256)
    c.model.mdn.update(num_components=16, feature_dim=32, conditional=False)
    c.model.mdn.update(fixed_features=True, stop_gradient=True)
    c.optimizer.update(learning_rate=1e-3, schedule="cosine", warmup_steps=50, clip_norm=1.0)
    return c


def drawn(detector: str, category: str):
    c = base(detector)
    c.data.update(source="synthetic", root="demo_data", category=category)
    c.image_size = (128, 128)
    return c
