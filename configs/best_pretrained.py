"""configs/best.py with a fourth expert: a mixture over features of a pretrained ViT.

python -m vtadl_jax.import_weights fetch dinov2_vits14 --to=DIR
python -m vtadl_jax.main --config configs/best_pretrained.py --config.data.root=IMAGES \\
    --config.init_from=DIR/dinov2_vits14.safetensors

Another encoder: `--config.model.encoder.features=NAME` with its file (docs/weights.md). It sees
images of 448², the other experts see them reduced to 256².
"""

from vtadl_jax.configs import best


def get_config(category: str = ""):
    c = best.get_config(category)
    c.image_size = (448, 448)
    c.eval.map_sigma = 3.5  # 2 of 256
    c.model.filter_side = 256
    c.model.use = (*c.model.use, "encoder")
    return c
