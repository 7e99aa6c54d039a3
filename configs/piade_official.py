"""PIADE as its authors' public program has it: another network than the thesis; on MVTec AD.

python -m vtadl_jax.main --config configs/piade_official.py:bottle --config.data.root=DIR

Images are resized to 156 × 156 and cut to their centre of 120 × 120, which may lose defects at the
border. `--config.init_from=RESNET50,VGG11` starts from torchvision's files, as the program does.
Toothbrush has fewer images than a batch of 60: add --config.batch_size=32.
"""

from vtadl_jax.configs import piade


def get_config(category: str = "bottle"):
    c = piade.get_config(f"mvtec-{category}")
    c.data.resize = (156, 156)
    c.model.version = "official"
    c.model.routing.stop_gradient = True
    c.model.norm_momentum = 0.95
    c.batch_size = 60
    c.optimizer.weight_decay = 1e-3
    return c
