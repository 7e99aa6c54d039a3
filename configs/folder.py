"""Your own images, any size, resized without a crop.

python -m vtadl_jax.main --config configs/folder.py --config.data.root=DIR

DIR holds good images and nothing else, or has MVTec's layout (train/good, test/<defect>,
ground_truth/<defect>/<image>_mask.png) or BTAD's (ok and ko). With `configs/folder.py:NAME` it is
DIR/NAME. Defective images in a folder of their own, and masks if there are any, come in with

    --config.data.bad=BAD_DIR --config.data.masks=MASK_DIR

`--config.data.fit=pad` or `crop` keeps the aspect. Smaller and quicker than the paper's setting:
256² and 32-pixel patches.
"""

from configs import default


def get_config(category: str = ""):
    c = default.get_config()
    c.data.source = "folder"
    c.data.category = category
    c.image_size = (256, 256)
    c.model.patch_size = 32
    c.num_epochs = 100
    return c
