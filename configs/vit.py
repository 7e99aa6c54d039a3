"""VT-ADL with a pretrained ViT-S/16 encoder, on a category of MVTec AD.

python -m vtadl_jax.main --config configs/vit.py --config.init_from=FILE --config.data.root=DIR

FILE is one of Google's .npz files or a state dict of timm (.safetensors, .pth) of a ViT-S/16. For
another ViT set the sizes below; errors name what does not fit. Encoders that were trained on
standardized pixels (DeiT, DINO) also need --config.model.init_pixels=imagenet.
"""

from vtadl_jax.experiment import base


def get_config(category: str = "screw"):
    c = base("vtadl")
    c.data.category = category
    c.image_size = (256, 256)
    c.model.vit.patch_size = 16
    c.model.vit.width = 384
    c.model.vit.depth = 12
    c.model.vit.num_heads = 6
    c.model.vit.mlp_dim = 1536
    c.model.vit.qkv_bias = True
    c.model.vit.final_norm = True
    c.model.vit.norm_epsilon = 1e-6
    return c
