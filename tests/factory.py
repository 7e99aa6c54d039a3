"""Small configs for tests: the same fields as an experiment, sizes that compile in seconds."""

from pathlib import Path
from typing import Any

from vtadl_jax import options as schema
from vtadl_jax.config import Config
from vtadl_jax.data.synthetic.dataset import make_dataset
from vtadl_jax.experiment import base, inputs_of, make_detector, parse

SIZES: dict[str, Any] = {
    "data.category": "gear",
    "image_size": (32, 32),
    "batch_size": 8,
    "eval.batch_size": 8,
    "num_train_steps": 4,
    "log_every_steps": 2,
    "checkpoint_every_steps": 2,
    "data.num_threads": 1,
    "model.vit.patch_size": 8,
    "model.vit.width": 16,
    "model.vit.depth": 2,
    "model.vit.num_heads": 2,
    "model.vit.mlp_dim": 32,
    "model.decoder.vector_dim": 64,
    "model.decoder.features": (8, 8, 4, 4),
    "model.mdn.num_components": 3,
    "model.mdn.feature_dim": 4,
    "model.mdn.hidden": 16,
    "optimizer.learning_rate": 1e-3,
}


def tiny_config(root: Path | str = "", detector: str = "vtadl", **fields) -> Config:
    """A 32×32 experiment, by default VT-ADL with every part in place.

    Dotted names override, as `model__vit__width=8`; sizes that the detector does not have are left
    out.
    """
    config = parse(base(detector).to_dict())
    known = {name for name, _, _ in schema.fields_of(config)}
    sizes = {name: value for name, value in SIZES.items() if name in known}
    sizes["data.root"] = str(root)
    return with_fields(schema.replace(config, sizes), **fields)


def with_fields(config: Config, **fields) -> Config:
    """The config with other values, as `model__vit__width=8`."""
    return schema.replace(config, {name.replace("__", "."): v for name, v in fields.items()})


def as_decided(config: Config, stored: Config) -> Config:
    """The config with what a run decided about its images in place of 'auto'."""
    return with_fields(
        config,
        data__orientations=stored.data.orientations,
        eval__cross_fit=stored.eval.cross_fit,
    )


def tiny_detector(detector: str = "vtadl", **fields):
    """The detector of `tiny_config`."""
    return make_detector(tiny_config(detector=detector, **fields))


def build_of(build, config: Config):
    """A network builder's result for a config: build(options, inputs)."""
    return build(config.model, inputs_of(config))


def tiny_dataset(root: Path) -> Path:
    """Drawn parts in the MVTec layout: 20 good to train on, 4 good and 2 of each defect to test."""
    return make_dataset(root, image_size=32, num_train=20, num_test_good=4, num_per_defect=2)
