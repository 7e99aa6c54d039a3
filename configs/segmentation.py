"""A segmentation network that learns from masks, cross-validated: chapter 7 of the thesis.

python -m vtadl_jax.main --config configs/segmentation.py:screw --config.data.root=DIR

`--config.model.network=` unet_tiny, fcn32s, unet_plus_plus, unet2 or segnet. Tests on one of five
folds of the test images, `--config.data.fold=0` to 4. `configs/segmentation.py:drawn-screw` learns
from defects that it draws on good images, and tests on the whole test set.
"""

from vtadl_jax.configs.baseline_filters import choose_data

from vtadl_jax.experiment import base

GAPS = {"magnetic_tile": 150}  # numbers of one tile's photographs are closer than this


def get_config(argument: str = ""):
    c = base("segmentation")
    drawn = argument.partition("-")[0] == "drawn"
    category = argument.removeprefix("drawn").removeprefix("-") if drawn else argument
    choose_data(c, category)
    if drawn:
        c.model.defects = "drawn"
    else:
        c.data.update(folds=5, group_gap=GAPS.get(category, 0), balanced_batches=True)
    c.data.channels, c.data.cache = 0, "host"
    c.data.augment.update(flip_horizontal=True, rotation_degrees=10.0)
    c.image_size, c.batch_size = (256, 256), 8
    c.num_train_steps = 1000
    c.log_every_steps = 20
    c.optimizer.update(learning_rate=1e-3, schedule="cosine", warmup_steps=20)
    c.eval.map_sigma = 2.0
    c.keep_best = "none"
    return c
