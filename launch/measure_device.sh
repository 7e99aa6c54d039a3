#!/usr/bin/env bash
# Measures the train steps of docs/compilation.md on this machine's accelerator, beside the compiler's
# estimates, in at most 8 minutes. Writes one JSON.
#
# Run by the project's tests on a CPU. Not run by its authors on an accelerator.
#
# Usage: launch/measure_device.sh [OUTPUT.json [ARGUMENT_OF_DEVICE ...]]
#   launch/measure_device.sh device.json
#   launch/measure_device.sh device.json --measure 'configs/mvtec.py --config.dtype=bfloat16'
#
# PYTHON is an interpreter with this package and JAX for the accelerator: pip install -e '.[tpu]' or
# '.[cuda]'. LIMIT: the seconds in all. The exit code is 1 if a config failed or there was no time for it;
# the JSON has the others, and names these.
set -euo pipefail

output=${1:-device.json}
[ $# -eq 0 ] || shift
exec "${PYTHON:-python}" -m vtadl_jax.benchmarks.device --json "$output" --seconds "${LIMIT:-480}" "$@"
