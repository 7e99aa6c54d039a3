"""Workloads of the benchmarks: packaged experiments, train steps, random batches."""

import importlib

import numpy as np

from vtadl_jax.config import Config
from vtadl_jax.data.pipeline import example_shapes
from vtadl_jax.data.transforms import Geometry
from vtadl_jax.errors import UserError
from vtadl_jax.experiment import assume_color, parse
from vtadl_jax.training.assembly import Assembly, assemble

SCHEDULED_STEPS = 1000  # of the learning rate's schedule; does not change the time of a step


def load_packaged(name: str) -> Config:
    """Returns the config of an experiment file of a checkout or of the package, as 'mvtec'."""
    module = importlib.import_module(f"vtadl_jax.configs.{name}")
    return assume_color(parse(module.get_config()))


def assemble_trained(config: Config) -> Assembly:
    """Returns detector and optimizer. Raises UserError for a detector without train steps."""
    assembly = assemble(config, num_steps=SCHEDULED_STEPS)
    if assembly.detector.loss is None:
        raise UserError(
            f"detector {config.detector!r} is fitted, without train steps: give a config of another"
        )
    return assembly


def random_batch(assembly: Assembly) -> dict[str, np.ndarray]:
    """Returns a batch of the config's size: random images uint8 [B, H, W, C], and zeros for the
    labels and masks that the detector needs."""
    config, needs = assembly.config, assembly.detector.needs
    shapes = example_shapes(Geometry(config.image_size), config.data.channels, needs)
    batch = {
        name: np.zeros((config.batch_size, *shape), dtype)
        for name, (shape, dtype) in shapes.items()
    }
    rng = np.random.default_rng(0)
    return batch | {"image": rng.integers(0, 256, batch["image"].shape, np.uint8)}
