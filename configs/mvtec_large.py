"""VT-ADL of the size of ViT-L for a TPU pod slice, its state sharded over 16 chips.

python -m vtadl_jax.main --config configs/mvtec_large.py --config.data.root=DIR
python -m vtadl_jax.compile --config configs/mvtec_large.py --topology v5e:16x16

Width 1024, depth 24 and patches of 16 pixels make 1,024 tokens of a 512² image. A batch is 4 images
a chip on 256 chips (the second command needs `--images_per_device 4`), more than a category of
MVTec AD has: the config is for larger sets. On fewer chips set `--config.batch_size=64
--config.eval.batch_size=64`, and `--config.mesh.fsdp` if their number is not a multiple of 16. A
map cell is 16 pixels wide, so the map needs less smoothing than in the paper's setting.
"""

from vtadl_jax.configs import mvtec


def get_config(category: str = "screw"):
    c = mvtec.get_config(category)
    c.dtype = "bfloat16"
    c.batch_size = 1024
    c.eval.batch_size = 256
    c.eval.map_sigma = 2.0
    c.mesh.fsdp = 16
    c.model.vit.patch_size = 16
    c.model.vit.width = 1024
    c.model.vit.depth = 24
    c.model.vit.num_heads = 16
    c.model.vit.mlp_dim = 4096
    c.model.vit.remat = True
    c.optimizer.schedule = "cosine"
    c.optimizer.warmup_steps = 100
    c.optimizer.clip_norm = 1.0
    return c
