"""Your own images in the MVTec layout, any size, resized without a crop.

python -m vtadl_jax.main --config configs/folder.py --config.data.root=DIR

DIR holds train/good and, if you have them, test/good, test/<defect> and
ground_truth/<defect>/<image>_mask.png. With `configs/folder.py:NAME` it is DIR/NAME that does.
Smaller and quicker than the paper's setting: 256² and 32-pixel patches.
"""

from configs import default


def get_config(category: str = ""):
    c = default.get_config()
    c.data.category = category
    c.image_size = (256, 256)
    c.model.patch_size = 32
    c.num_epochs = 100
    return c
