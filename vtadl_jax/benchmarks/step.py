"""Measures the time of the compiled train step and of the scoring of one image, on random images.

python -m vtadl_jax.benchmarks.step --config configs/mvtec.py --json step.json

Uses the compiled functions of training and evaluation; medians over --steps blocking calls, without
reading images. Exit codes: 0 done, 2 a mistake.
"""

import resource
import sys
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from absl import flags

from vtadl_jax import experiment
from vtadl_jax.benchmarks.timing import check_json, median_seconds, write_json
from vtadl_jax.benchmarks.workloads import assemble_trained, random_batch
from vtadl_jax.config import Config
from vtadl_jax.errors import UserError
from vtadl_jax.runtime import sharding
from vtadl_jax.runtime.allocator import reuse_host_buffers
from vtadl_jax.training.compiled_steps import compile_train_step

FLAGS = flags.FlagValues()
_STEPS = flags.DEFINE_integer("steps", 10, "Number of timed calls.", 1, flag_values=FLAGS)
_JSON = flags.DEFINE_string("json", "", "Also write the figures to this file.", flag_values=FLAGS)
_TRACE = flags.DEFINE_string(
    "trace", "", "Also trace three steps into this folder.", flag_values=FLAGS
)
TRACED = 3


def measure(config: Config, repeats: int, trace: str = "") -> dict[str, Any]:
    """Returns seconds, images per second and MiB of a config's step, by name.

    trace: a folder for a profile of three more steps, '' for none. Raises UserError for a detector
    without train steps.
    """
    reuse_host_buffers()
    mesh = sharding.make_mesh(config.mesh.data, config.mesh.fsdp)
    assembly = assemble_trained(config)
    state = sharding.put_state(mesh, assembly.make_state(), assembly.shard_optimizer)
    arrays = random_batch(assembly)
    images = arrays["image"]
    variables = jax.tree.map(np.asarray, state.variables)
    batch = sharding.put_batch(mesh, arrays)
    step = compile_train_step(assembly.make_step(mesh, state), state, batch)
    memory = step.memory_analysis()

    def one_step() -> Any:  # the state is donated: every call continues from the last state
        nonlocal state
        state, metrics = step(state, batch)
        return metrics

    step_seconds = median_seconds(one_step, repeats)
    if trace:
        with jax.profiler.trace(trace):
            for number in range(TRACED):
                with jax.profiler.StepTraceAnnotation("train", step_num=number):
                    jax.block_until_ready(one_step())
    score = jax.jit(assembly.detector.score)
    variables = jax.device_put(variables)
    image_seconds = median_seconds(lambda: score(variables, images[:1]), repeats)
    return {
        "config_shape": images.shape,
        "num_parameters": sum(x.size for x in jax.tree.leaves(variables["params"])),
        "step_seconds": step_seconds,
        "images_per_second": config.batch_size / step_seconds,
        "score_one_image_seconds": image_seconds,
        "step_argument_mib": memory.argument_size_in_bytes / 2**20,
        "step_temporary_mib": memory.temp_size_in_bytes / 2**20,
        "peak_process_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10,
        "device": f"{jax.device_count()} × {jax.devices()[0].device_kind}",
    }


def run(text: str, overrides: Sequence[str]) -> None:
    """Measures the config that the command line names; prints the figures and writes them."""
    if not text:
        raise UserError("no config: give --config FILE, for example --config configs/mvtec.py")
    check_json(_JSON.value)
    config, _ = experiment.load(text, overrides)
    figures = measure(experiment.assume_color(config), _STEPS.value, _TRACE.value)
    print(write_json(figures, _JSON.value))


def main(argv: list[str]) -> int:
    return experiment.run_experiment_command(FLAGS, argv, __doc__, run, "nothing was written")


if __name__ == "__main__":
    sys.exit(main(sys.argv))
