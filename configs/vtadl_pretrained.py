"""VT-ADL with a pretrained encoder in place of its own, frozen or fine-tuned.

python -m vtadl_jax.import_weights fetch dinov2_vits14 --to=DIR
python -m vtadl_jax.main --config configs/vtadl_pretrained.py --config.data.root=IMAGES \\
    --config.init_from=DIR/dinov2_vits14.safetensors

`--config.model.fine_tune=true --config.optimizer.learning_rate=1e-4` trains the encoder, too.
Another encoder: `--config.model.features=NAME` with its file (docs/weights.md); `configs/
vtadl_pretrained.py:NAME` uses IMAGES/NAME.
"""

from vtadl_jax.configs.baseline_filters import choose_data

from vtadl_jax.experiment import base


def get_config(category: str = ""):
    c = base("vtadl_pretrained")
    choose_data(c, category)
    c.data.channels = 3
    c.data.cache = "host"
    c.image_size = (224, 224)
    c.batch_size = 8
    c.num_train_steps = 300
    c.log_every_steps = 20
    c.model.features = "dinov2_vits14"
    c.optimizer.learning_rate = 1e-3
    c.optimizer.weight_decay = 0.0
    c.optimizer.schedule = "cosine"
    c.optimizer.warmup_steps = 20
    c.optimizer.clip_norm = 1.0
    c.eval.batch_size = 8
    c.eval.map_sigma = 4.0
    return c
