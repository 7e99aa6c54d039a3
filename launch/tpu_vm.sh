#!/usr/bin/env bash
# Train on one TPU VM (a single host): create it, install, run, fetch the results, delete it.
# Not run by its authors on a real TPU; the compiled step is the same program as on a CPU.
# Usage: launch/tpu_vm.sh BUCKET_WITH_DATA CONFIG [OVERRIDE ...]
#   launch/tpu_vm.sh gs://my-bucket/mvtec_ad configs/mvtec.py:screw --config.dtype=bfloat16
set -euo pipefail

NAME=${NAME:-vtadl}
ZONE=${ZONE:-us-west4-a}
TYPE=${TYPE:-v5litepod-4}
RUNTIME=${RUNTIME:-v2-alpha-tpuv5-lite}

data=${1:?give the bucket folder that holds the categories}
config=${2:?give a config file, such as configs/mvtec.py:screw}
shift 2

on_vm() { gcloud compute tpus tpu-vm ssh "$NAME" --zone="$ZONE" --command="$1"; }

gcloud compute tpus tpu-vm create "$NAME" --zone="$ZONE" --accelerator-type="$TYPE" --version="$RUNTIME"
trap 'gcloud compute tpus tpu-vm delete "$NAME" --zone="$ZONE" --quiet' EXIT
git archive --format=tar HEAD | gcloud compute tpus tpu-vm ssh "$NAME" --zone="$ZONE" \
  --command="mkdir -p vtadl_jax && tar -x -C vtadl_jax"
on_vm "cd vtadl_jax && python3 -m venv .venv && .venv/bin/pip install -q -e '.[tpu]'"
on_vm "mkdir -p data && gcloud storage cp -r '$data/*' data/"
on_vm "cd vtadl_jax && .venv/bin/python -m vtadl_jax.main --config $config \
  --config.data.root=../data --workdir=../run $(printf '%q ' "$@")"
gcloud compute tpus tpu-vm scp --recurse --zone="$ZONE" "$NAME":run "./runs/$NAME"
