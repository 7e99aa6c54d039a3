"""Time the compiled train step and the scoring of one image, on random images.

python -m vtadl_jax.benchmarks.step --config configs/mvtec.py --json step.json

The same compiled functions that training and evaluation use; medians over `--steps` calls, each
waited for. Reading images is not part of it.
"""

import resource
import sys

import jax
import numpy as np
from absl import flags

from vtadl_jax import config as config_lib
from vtadl_jax import sharding, train
from vtadl_jax.allocator import keep_freed_memory
from vtadl_jax.benchmarks.timing import check_json, median_seconds, write_json
from vtadl_jax.errors import UserError
from vtadl_jax.models import make_detector
from vtadl_jax.optimizer import make_optimizer

_STEPS = flags.DEFINE_integer("steps", 10, "Calls that are timed.", lower_bound=1)
_JSON = flags.DEFINE_string("json", "", "Also write the figures to this file.")


def measure(config, repeats: int) -> dict:
    config_lib.check_values(config)
    config_lib.assume_color(config)
    keep_freed_memory()
    mesh = sharding.make_mesh(**config.mesh)
    detector = make_detector(config)
    tx = make_optimizer(config.optimizer, 1000)
    ema_decay = config.optimizer.ema_decay
    state = train.create_state(detector, tx, config.seed, ema_decay)
    state = sharding.put_state(mesh, state)
    shape = (config.batch_size, *config.image_size, config.data.channels)
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    variables = jax.tree.map(np.asarray, state.variables)
    batch = sharding.put_batch(mesh, {"image": images})
    step = train.make_train_step(
        detector, tx, mesh, state, ema_decay=ema_decay, parallel=config.train.parallel
    )
    step = train.compile_train_step(step, state, batch)
    memory = step.memory_analysis()

    def one_step():  # the state is donated: every call continues from the last
        nonlocal state
        state, metrics = step(state, batch)
        return metrics

    step_seconds = median_seconds(one_step, repeats)
    score = jax.jit(detector.score)
    variables = jax.device_put(variables)
    image_seconds = median_seconds(lambda: score(variables, images[:1]), repeats)
    return {
        "config_shape": shape,
        "num_parameters": sum(x.size for x in jax.tree.leaves(variables["params"])),
        "step_seconds": step_seconds,
        "images_per_second": config.batch_size / step_seconds,
        "score_one_image_seconds": image_seconds,
        "step_argument_mib": memory.argument_size_in_bytes / 2**20,
        "step_temporary_mib": memory.temp_size_in_bytes / 2**20,
        "peak_process_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10,
        "device": f"{jax.device_count()} × {jax.devices()[0].device_kind}",
    }


def main(argv: list[str]) -> int:
    try:
        config, _ = config_lib.parse_flags(argv)
        check_json(_JSON.value)
        figures = measure(config, _STEPS.value)
    except UserError as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    print(write_json(figures, _JSON.value))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
