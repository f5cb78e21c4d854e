#!/usr/bin/env bash
# sbatch clusters/slurm.sh --config study/configs/resnet18_fc.yaml --name first --storage /shared/studies
#
# What it costs an hour: the machines below, for as long as the job runs; it ends with the study.
# Needs: paretune installed on every node, or in an environment in a folder that all of them reach:
# export VENV=/shared/paretune before sbatch. Storage must be a folder that all nodes reach, or a URI.
# Another try goes on where the last one ended: the same command with --resume.
#SBATCH --job-name=paretune
#SBATCH --nodes=3
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --gpus-per-node=1
#SBATCH --time=08:00:00
#SBATCH --signal=B:TERM@300
set -euo pipefail
# shellcheck disable=SC1091

if [ -n "${VENV:-}" ]; then . "$VENV/bin/activate"; fi
gpus=${SLURM_GPUS_ON_NODE:-0}
export RAY_USAGE_STATS_ENABLED=0 RAY_AUTH_MODE=token

# Whoever reaches Ray's ports runs code as you, and other users' jobs share the network: a token.
shared=$(mktemp -d "${SLURM_SUBMIT_DIR:-$PWD}/.paretune-${SLURM_JOB_ID}-XXXXXX")   # mode 0700
export RAY_AUTH_TOKEN_PATH="$shared/token"
temporary=/tmp/paretune-$SLURM_JOB_ID   # on each node; /tmp/ray may be another user's
(umask 077 && python -c 'import secrets; print(secrets.token_hex(32), end="")' > "$RAY_AUTH_TOKEN_PATH")

steps=() study=
# shellcheck disable=SC2317  # called by traps
end() {
  trap - EXIT TERM INT
  # The study first: it writes down where it is. Then workers, then the head.
  for process in $study $(printf '%s\n' "${steps[@]}" | tac); do
    if kill -TERM "$process" 2> /dev/null; then wait "$process" || true; fi
  done
  srun --overlap --ntasks-per-node=1 rm -rf "$temporary" || true
  rm -rf "$shared"
}
trap end EXIT
trap 'end; exit 143' TERM INT

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
address=$(srun --nodes=1 --ntasks=1 --nodelist="${nodes[0]}" hostname --ip-address | awk '{print $1}')
port=$((20000 + SLURM_JOB_ID % 20000))   # jobs that share a node do not share it

on() {   # on NODE ray-start-options...: Ray there, in a step of its own
  local node=$1; shift
  srun --nodes=1 --ntasks=1 --overlap --nodelist="$node" --kill-on-bad-exit=1 \
    ray start --block --dashboard-agent-listen-port=0 --num-cpus="${SLURM_CPUS_PER_TASK:-1}" --num-gpus="$gpus" "$@" &
  steps+=($!)
}
on "${nodes[0]}" --head --node-ip-address="$address" --port="$port" \
  --temp-dir="$temporary" --include-dashboard=false
for node in "${nodes[@]:1}"; do on "$node" --address="$address:$port"; done

python - "$address:$port" "${#nodes[@]}" << 'PYTHON'
import sys, time, ray

address, count = sys.argv[1], int(sys.argv[2])
end = time.monotonic() + 180
while True:
    try:
        ray.init(address, log_to_driver=False, logging_level="ERROR")
        alive = sum(node["Alive"] for node in ray.nodes())
        ray.shutdown()
    except ConnectionError:
        alive = 0
    if alive >= count:
        sys.exit()
    if time.monotonic() > end:
        sys.exit(f"paretune: {alive} of {count} nodes joined within 3 minutes")
    time.sleep(2)
PYTHON

python -m study.run --address "$address:$port" "$@" &
study=$!
wait "$study" && code=0 || code=$?
study=
exit "$code"
