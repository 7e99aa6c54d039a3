"""A ViT-L-sized VT-ADL for a TPU pod slice: its state is shared by 16 chips.

python -m vtadl_jax.main --config configs/mvtec_large.py --config.data.root=DIR
python -m vtadl_jax.compile --config configs/mvtec_large.py --topology v5e:16x16

Width 1024, depth 24 and patches of 16 pixels make 1,024 tokens of a 512² image. A batch is 4 images
a chip of 256 (the second command wants `--images_per_device 4`), more than a category of MVTec AD
has: it is for larger sets. On fewer chips say `--config.batch_size=64
--config.eval.batch_size=64`, and `--config.mesh.fsdp` if they are not a multiple of 16. A map's
cell is 16 pixels, so less smoothing than in the paper's setting.
"""

from configs import mvtec


def get_config(category: str = "screw"):
    c = mvtec.get_config(category)
    c.dtype = "bfloat16"
    c.batch_size = 1024
    c.eval.batch_size = 256
    c.eval.map_sigma = 2.0
    c.mesh.fsdp = 16
    c.model.patch_size = 16
    c.model.width = 1024
    c.model.depth = 24
    c.model.num_heads = 16
    c.model.mlp_dim = 4096
    c.model.remat = True
    c.optimizer.schedule = "cosine"
    c.optimizer.warmup_steps = 100
    c.optimizer.clip_norm = 1.0
    return c
