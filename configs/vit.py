"""VT-ADL behind a pretrained ViT-S/16, on a category of MVTec AD.

python -m vtadl_jax.main --config configs/vit.py --config.init_from=FILE --config.data.root=DIR

FILE is one of Google's .npz files or a state dict of timm (.safetensors, .pth) of a ViT-S/16; for
another ViT set the sizes below, what does not fit is named. Encoders that were trained on
standardised pixels (DeiT, DINO) also need --config.init_pixels=imagenet.
"""

from configs import default


def get_config(category: str = "screw"):
    c = default.get_config()
    c.data.category = category
    c.image_size = (256, 256)
    c.model.patch_size = 16
    c.model.width = 384
    c.model.depth = 12
    c.model.num_heads = 6
    c.model.mlp_dim = 1536
    c.model.qkv_bias = True
    c.model.final_norm = True
    c.model.norm_epsilon = 1e-6
    return c
