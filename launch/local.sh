#!/usr/bin/env bash
# Trains with several processes on this machine: to test a multi-host run, or one process for each
# accelerator. The processes connect over TCP; on the CPU their collectives use gloo.
# Run by the project's tests with 2 processes of 2 CPU devices each.
#
# Usage: launch/local.sh N ARGUMENT_OF_MAIN ...
#   launch/local.sh 2 --config configs/demo.py:vtadl
#   XLA_FLAGS=--xla_force_host_platform_device_count=2 launch/local.sh 2 --config configs/demo.py:vtadl
#
# Optional variables: PYTHON, PORT, and GRACE, the seconds until the others are killed after one
# process has failed. The script forwards TERM, and all processes save and exit with 75. Its exit code
# is that of the first process that failed.
set -uo pipefail

count=${1:?give the number of processes, then the arguments of vtadl_jax.main}
shift
python=${PYTHON:-python}
grace=${GRACE:-20}
port=${PORT:-$("$python" -c 'import socket; s = socket.socket(); s.bind(("localhost", 0)); print(s.getsockname()[1])')}

export VTADL_COORDINATOR=localhost:$port VTADL_NUM_PROCESSES=$count
pids=()
for ((i = 0; i < count; i++)); do
  VTADL_PROCESS_ID=$i "$python" -m vtadl_jax.main "$@" &
  pids+=($!)
done

trap 'kill -TERM "${pids[@]}" 2> /dev/null' TERM
trap 'kill -INT "${pids[@]}" 2> /dev/null' INT

first_failure=0
deadline=0
while ((${#pids[@]} > 0)); do
  running=()
  for pid in "${pids[@]}"; do
    if kill -0 "$pid" 2> /dev/null; then
      running+=("$pid")
      continue
    fi
    wait "$pid"
    code=$?
    if ((code != 0 && first_failure == 0)); then
      first_failure=$code
      deadline=$((SECONDS + grace))
    fi
  done
  if ((deadline > 0 && SECONDS >= deadline && ${#running[@]} > 0)); then
    echo "launch/local.sh: one process ended with code $first_failure $grace s ago: the others are killed" >&2
    kill -KILL "${running[@]}" 2> /dev/null
  fi
  pids=("${running[@]}")
  sleep 0.2
done
exit "$first_failure"
