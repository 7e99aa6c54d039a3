"""Small configs for tests: the same fields as an experiment, sizes that compile in seconds."""

from pathlib import Path

from configs import default
from vtadl_jax.data.synthetic import make_dataset


def tiny_config(root: Path | str = "", **fields):
    """A 32×32 VT-ADL with every part in place; dotted names override, as `model__width=8`."""
    c = default.get_config()
    c.data.root, c.data.category = str(root), "gear"
    c.image_size = (32, 32)
    c.batch_size = c.eval.batch_size = 8
    c.num_train_steps = 4
    c.log_every_steps = 2
    c.checkpoint_every_steps = 2
    c.data.num_threads = 1
    c.model.patch_size = 8
    c.model.width = 16
    c.model.depth = 2
    c.model.num_heads = 2
    c.model.mlp_dim = 32
    c.model.decoder.vector_dim = 64
    c.model.decoder.features = (8, 8, 4, 4)
    c.model.mdn.num_components = 3
    c.model.mdn.feature_dim = 4
    c.optimizer.learning_rate = 1e-3
    for name, value in fields.items():
        *parents, leaf = name.split("__")
        node = c
        for parent in parents:
            node = node[parent]
        node[leaf] = value
    return c


def tiny_dataset(root: Path) -> Path:
    """Drawn parts in the MVTec layout: 20 good to train on, 4 good and 2 of each defect to test."""
    return make_dataset(root, image_size=32, num_train=20, num_test_good=4, num_per_defect=2)
