#!/usr/bin/env bash
# Trains on Cloud TPU, a single host (v5litepod-4) or a pod slice (v5litepod-256): creates it, installs
# and runs on all workers, fetches the results, deletes it.
#
# Not run by its authors on a real TPU. They ran the same program as several processes on one machine,
# the compiler for these slices, and shellcheck on this file.
#
# Usage: launch/tpu_vm.sh gs://BUCKET/RUNS gs://BUCKET/DATA CONFIG [OVERRIDE ...]
#   launch/tpu_vm.sh gs://my-bucket/runs gs://my-bucket/mvtec_ad configs/mvtec.py:screw --config.dtype=bfloat16
#
# RUNS, a bucket folder that every worker mounts with gcsfuse, holds the run's workdir with its
# checkpoints, so that an interrupted run continues. DATA is copied to every worker.
set -euo pipefail

NAME=${NAME:-vtadl}
ZONE=${ZONE:-us-west4-a}
TYPE=${TYPE:-v5litepod-4}                   # v5litepod-256 for 64 hosts
RUNTIME=${RUNTIME:-v2-alpha-tpuv5-lite}
SPOT=${SPOT:-}                              # 1: preemptible; the run saves a checkpoint on TERM
KEEP=${KEEP:-}                              # 1: do not delete the TPU at the end
LIBTPU_INIT_ARGS=${LIBTPU_INIT_ARGS:-}      # flags of the compiler, for all workers

runs=${1:?give the bucket folder for runs}
data=${2:?give the bucket folder that holds the categories}
config=${3:?give a config file, such as configs/mvtec.py:screw}
shift 3
run_name=${config/.py/}
run_name=$(basename "${run_name/:/-}")
bucket=${runs#gs://}

tpu() { gcloud compute tpus tpu-vm "$@" --zone="$ZONE"; }
on_all() { tpu ssh "$NAME" --worker=all --command="$1"; }

if ! tpu describe "$NAME" > /dev/null 2>&1; then
  tpu create "$NAME" --accelerator-type="$TYPE" --version="$RUNTIME" ${SPOT:+--spot}
fi
if [ -z "$KEEP" ]; then
  trap 'tpu delete "$NAME" --quiet' EXIT
fi

source=$(mktemp -d)
git archive --format=tar.gz --output="$source/vtadl_jax.tar.gz" HEAD
tpu scp "$source/vtadl_jax.tar.gz" "$NAME": --worker=all
on_all "mkdir -p vtadl_jax data runs && tar -xzf vtadl_jax.tar.gz -C vtadl_jax"
on_all "cd vtadl_jax && python3 -m venv .venv && .venv/bin/pip install -q -e '.[tpu]'"
on_all "gcloud storage cp -r '$data/*' data/"
on_all "mountpoint -q runs || gcsfuse --implicit-dirs --only-dir '${bucket#*/}' '${bucket%%/*}' runs"

# With VTADL_DISTRIBUTED JAX asks the platform for the other hosts. All workers run the same command. If
# a worker is lost, the others end; run this script again to continue.
flags=$(printf '%q' "$LIBTPU_INIT_ARGS")
overrides=$([ $# -eq 0 ] || printf '%q ' "$@")
on_all "cd vtadl_jax && LIBTPU_INIT_ARGS=$flags VTADL_DISTRIBUTED=1 .venv/bin/python -m vtadl_jax.main --config $config \
  --config.data.root=../data --workdir=../runs/$run_name $overrides"
mkdir -p runs
gcloud storage cp -r "$runs/$run_name" runs/
