"""A mixture over features of a pretrained Vision Transformer: fitted, not trained.

python -m vtadl_jax.import_weights fetch dinov2_vits14 --to=DIR
python -m vtadl_jax.main --config configs/encoder.py --config.data.root=IMAGES \\
    --config.init_from=DIR/dinov2_vits14.safetensors

`configs/encoder.py:NAME` uses IMAGES/NAME, as configs/best.py does. Another encoder, or ResNet:
`--config.model.features=NAME` with its file (docs/weights.md). The image size is a multiple of all
encoders' patches. An image takes about 60 GFLOP: an accelerator's work, or a second of a CPU.
"""

from vtadl_jax.configs.baseline_filters import choose_data

from vtadl_jax.experiment import base


def get_config(category: str = ""):
    c = base("filter_mixture")
    choose_data(c, category)
    c.data.channels = 0
    c.image_size = (448, 448)
    c.num_epochs = 0
    c.model.features = "dinov2_vits14"
    c.model.mdn.num_components = 40
    c.model.mdn.feature_dim = 64
    c.eval.batch_size = 4
    return c
