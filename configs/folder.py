"""VT-ADL on your own images, any size, resized without a crop.

python -m vtadl_jax.main --config configs/folder.py --config.data.root=DIR

DIR holds good images only, or has the layout of MVTec AD (train/good, test/<defect>,
ground_truth/<defect>/<image>_mask.png) or BTAD (ok and ko). `configs/folder.py:NAME` uses DIR/NAME.
Defective images in their own folder, and their masks if there are any, are added with

    --config.data.bad=BAD_DIR --config.data.masks=MASK_DIR

`--config.data.fit=pad` or `crop` keeps the aspect ratio. Smaller and faster than the paper's
setting: 256² images and 32-pixel patches.
"""

from vtadl_jax.experiment import base


def get_config(category: str = ""):
    c = base("vtadl")
    c.data.source = "folder"
    c.data.category = category
    c.image_size = (256, 256)
    c.model.vit.patch_size = 32
    c.num_epochs = 100
    return c
