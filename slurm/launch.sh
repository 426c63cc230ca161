#!/usr/bin/env bash
# Start one training run: on the nodes of a Slurm job, or here as one node where there is no job. Recipes call it.
#
#   CONFIG=FILE slurm/launch.sh [--print] [flags of megatron_pz.train]
#
# --print shows what would run and starts nothing; it needs no Slurm. Paths are relative to the root of the checkout.
#
#   CONFIG           the recipe (YAML); required
#   SAVE             the run's folder; default: the recipe's own (training.save), or runs/RECIPE after the recipe's
#                    folder. If it holds a checkpoint, the run goes on from it. The flags --save and --load come first.
#   MODEL, DATA_PATH the recipe's --hf-model and --data-path
#   NPROC_PER_NODE   processes a node; default: the node's GPUs (of CUDA_VISIBLE_DEVICES, if set), or 1 without any
#   ACTIVATE         file that every node sources first; default .venv/bin/activate if it is there
#   PYTHON           interpreter; default python
#   SRUN_FLAGS       further flags of srun, e.g. --container-image=IMAGE --container-mounts=PATHS (pyxis)
#   NODE_PREFIX      put before every node's command, e.g. apptainer exec --nv IMAGE
#   MASTER_PORT      rendezvous port on the first node; default from the job's number
#   OMP_NUM_THREADS  default: the node's cores, shared out among its processes
#   TORCH_ELASTIC_SHUTDOWN_TIMEOUT   seconds that torchrun leaves its workers when Slurm ends the job; default 120
#
# SIGUSR1 (Slurm's --signal, before the time limit), SIGTERM and Ctrl-C reach every worker, which finishes its step, saves
# a checkpoint and exits. After SIGUSR1 an unfinished job is put back into the queue and goes on from there; a minute before
# its time limit (SLURM_JOB_END_TIME) also one whose step takes too long, which goes on from the checkpoint before.
set -euo pipefail

main() {
  cd "$(dirname "${BASH_SOURCE[0]}")/.."
  if [[ ${1:-} == --on-node ]]; then
    run_node "${@:2}"
    return
  fi
  collect_flags "$@"
  if $printing; then
    print_commands
  elif [[ -n ${SLURM_JOB_ID:-} ]]; then
    set_aside_if_unfinished
    run_job
  else
    run_node "${flags[@]}"
  fi
}

fail() {
  echo "error: $*" >&2
  exit 2
}

# Refuse variable $1 unless its value $2 is a whole number of at least 1.
require_number() {
  [[ $2 =~ ^[1-9][0-9]*$ ]] || fail "$1=$2: give a whole number of at least 1"
}

# The last value of flag $1 among the other arguments, in either form, --flag value or --flag=value.
value_of() {
  local flag=$1 value='' previous='' argument
  shift
  for argument in "$@"; do
    if [[ $previous == "$flag" ]]; then value=$argument; fi
    if [[ $argument == "$flag="* ]]; then value=${argument#*=}; fi
    previous=$argument
  done
  echo "$value"
}

# Set flags (of megatron_pz.train), save and printing. What the command line says comes last, and so counts.
collect_flags() {
  local argument given=() prefixes=()
  printing=false
  for argument in "$@"; do
    if [[ $argument == --print ]]; then printing=true; else given+=("$argument"); fi
  done
  [[ -n ${CONFIG:-} ]] || fail "CONFIG is not set: give the recipe, e.g. CONFIG=examples/qwen3_4b/config.yaml"
  [[ -f $CONFIG ]] || fail "CONFIG=$CONFIG: no such file under $PWD"
  require_number NPROC_PER_NODE "${NPROC_PER_NODE:-1}"
  require_number MASTER_PORT "${MASTER_PORT:-1}"
  require_number OMP_NUM_THREADS "${OMP_NUM_THREADS:-1}"
  flags=(--config "$CONFIG")
  if [[ -n ${MODEL:-} ]]; then flags+=(--hf-model "$MODEL"); fi
  if [[ -n ${DATA_PATH:-} ]]; then
    read -ra prefixes <<<"$DATA_PATH"
    flags+=(--data-path "${prefixes[@]}")
  fi
  add_run_folder "${given[@]}"
  flags+=("${given[@]}")
}

# Set save, and add --save and --load to the flags where the given ones leave them out.
add_run_folder() {
  save=$(value_of --save "$@")
  if [[ -z $save ]]; then
    save=${SAVE:-$(recipe_save)}
    save=${save:-runs/$(basename "$(dirname "$CONFIG")")}
    flags+=(--save "$save")
  fi
  if [[ -z $(value_of --load "$@") && -f $save/latest_checkpointed_iteration.txt ]]; then
    flags+=(--load "$save")
    echo "Going on from iteration $(<"$save/latest_checkpointed_iteration.txt") in $save"
  fi
}

# The recipe's training.save, if it has one in a line of its own, without quotes and what stands behind it.
recipe_save() {
  sed -n -E 's/^ +save: *"?([^"#]*[^"# ]).*$/\1/p' "$CONFIG" | head -n 1
}

# A requeued job that never came to its first checkpoint begins anew; what it had written stays, under another name.
set_aside_if_unfinished() {
  if ((${SLURM_RESTART_COUNT:-0} > 0)) && [[ -d $save && ! -f $save/latest_checkpointed_iteration.txt ]]; then
    mv "$save" "$save.attempt-$((SLURM_RESTART_COUNT - 1))"
  fi
}

print_commands() {
  local node
  node=("${PYTHON:-python}" -m megatron_pz.train "${flags[@]}")
  echo "recipe      $CONFIG"
  echo "run folder  $save"
  echo "node setup  ${ACTIVATE:-$(activation || echo none)}"
  echo "under Slurm, on every node of the job:"
  echo "  srun $(quoted "${srun_flags[@]}")${NODE_PREFIX:+$NODE_PREFIX }bash slurm/launch.sh --on-node …, which starts"
  echo "  $(quoted "${PYTHON:-python}" -m torch.distributed.run)--nnodes=\$SLURM_NNODES --node-rank=\$SLURM_NODEID" \
    "--nproc-per-node=${NPROC_PER_NODE:-GPUS} --master-addr=HEAD_NODE --master-port=${MASTER_PORT:-FROM_JOB_ID}" \
    "$(quoted "${node[@]:1}")"
  echo "without Slurm, on this machine:"
  echo "  $(SLURM_NNODES='' torchrun_command && quoted "${torchrun[@]}" "${node[@]:1}")"
}

quoted() {
  printf '%q ' "$@"
}

# The file that a node sources first; code 1 where there is none to source, 2 where the one that was named is missing.
activation() {
  local file=${ACTIVATE:-.venv/bin/activate}
  if [[ -f $file ]]; then
    echo "$file"
  elif [[ -n ${ACTIVATE:-} ]]; then
    fail "ACTIVATE=$ACTIVATE: no such file"
  else
    return 1
  fi
}

# Slurm, first node: one task on every node, each of which runs this file again.
run_job() {
  local nodes prefix=()
  mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
  # The address that Slurm itself uses: the names of nodes need not be in DNS.
  MASTER_ADDR=$(scontrol show node --oneliner "${nodes[0]}" | grep -o 'NodeAddr=[^ ]*' | cut -d= -f2)
  MASTER_PORT=${MASTER_PORT:-$((20000 + SLURM_JOB_ID % 10000))}
  export MASTER_ADDR MASTER_PORT
  echo "Job $SLURM_JOB_ID, attempt ${SLURM_RESTART_COUNT:-0}: $SLURM_JOB_NODELIST, head $MASTER_ADDR:$MASTER_PORT"
  read -ra prefix <<<"${NODE_PREFIX:-}"
  srun "${srun_flags[@]}" "${prefix[@]}" bash slurm/launch.sh --on-node "${flags[@]}" &
  child=$!
  trap 'signalled=USR1; kill -USR1 "$child"; requeue_at_the_last_minute' USR1 # srun hands it on to its tasks
  trap 'signalled=TERM; kill -TERM "$child"' TERM
  wait_for_child
  if [[ -n ${last_minute:-} ]]; then kill "$last_minute" 2>/dev/null || true; fi
  if [[ $received == USR1 ]] && ((code != 0)); then
    echo "Stopped by SIGUSR1 before the last iteration: back into the queue"
    scontrol requeue "$SLURM_JOB_ID"
  fi
  return "$code"
}

# A job that reaches its time limit is not put back into the queue: do it before, whatever the workers are at.
requeue_at_the_last_minute() {
  local left=$((${SLURM_JOB_END_TIME:-0} - $(date +%s) - 60))
  if ((left > 0)) && [[ -z ${last_minute:-} ]]; then # no return: in a trap it has the code of what the trap interrupted
    {
      sleep "$left" &>/dev/null
      echo "No checkpoint since SIGUSR1, and the time is up: back into the queue, on from the last one"
      scontrol requeue "$SLURM_JOB_ID"
    } &
    last_minute=$!
  fi
}

# One node: torchrun and its workers.
run_node() {
  local file code=0
  file=$(activation) || code=$?
  ((code < 2)) || return "$code"
  if [[ -n $file ]]; then
    # shellcheck source=/dev/null
    source "$file"
  fi
  export HF_HUB_OFFLINE=${HF_HUB_OFFLINE:-1} # compute nodes have no way out
  export PYTHONWARNINGS=${PYTHONWARNINGS:-ignore} TORCH_CPP_LOG_LEVEL=${TORCH_CPP_LOG_LEVEL:-ERROR}
  export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-120}
  torchrun_command
  command -v "$python" >/dev/null || fail "PYTHON=$python: no such command; set ACTIVATE, or PYTHON to an interpreter"
  if [[ ${SLURM_NODEID:-0} == 0 ]]; then
    # Here, once, in a second, and not from every rank after a minute.
    "$python" -m megatron_pz.config.parse "$@" || return
  fi
  # Job control gives torchrun a process group of its own: Ctrl-C then reaches this script only, which hands it to the
  # workers. torchrun itself would answer a signal by killing them after a while, and exit with an error.
  # SIGUSR1 is ignored from the start, until a worker installs its handler: Slurm sends it to every process of a task.
  set -m
  (trap '' USR1 && exec "${torchrun[@]}" -m megatron_pz.train "$@") </dev/null &
  child=$!
  set +m
  trap 'signal_workers USR1' USR1
  trap 'signal_workers TERM' TERM
  trap 'signal_workers INT' INT
  wait_for_child
  return "$code"
}

# Set torchrun (the command up to the module's name) and python for this node.
torchrun_command() {
  local processes cores
  python=${PYTHON:-python}
  processes=${NPROC_PER_NODE:-$(count_gpus)}
  cores=${SLURM_CPUS_ON_NODE:-$(nproc)}
  export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((cores > processes ? cores / processes : 1))}
  torchrun=("$python" -m torch.distributed.run --nproc-per-node="$processes")
  if ((${SLURM_NNODES:-1} > 1)) && [[ -n ${MASTER_ADDR:-} ]]; then
    # A fixed rank for each node, so that a resumed run finds its ranks where they were.
    torchrun+=(--nnodes="$SLURM_NNODES" --node-rank="$SLURM_NODEID")
    torchrun+=(--master-addr="$MASTER_ADDR" --master-port="$MASTER_PORT")
  else
    # A free port on the loopback interface: two runs on one machine do not meet.
    torchrun+=(--nnodes=1 --rdzv-backend=c10d --rdzv-endpoint=localhost:0 --local-addr=127.0.0.1)
    export GLOO_SOCKET_IFNAME=${GLOO_SOCKET_IFNAME:-lo}
  fi
}

# nvidia-smi lists all cards, also those that CUDA_VISIBLE_DEVICES keeps from the processes.
count_gpus() {
  local gpus=${SLURM_GPUS_ON_NODE:-}
  if [[ -z $gpus && -n ${CUDA_VISIBLE_DEVICES+set} ]]; then
    gpus=$(tr , '\n' <<<"$CUDA_VISIBLE_DEVICES" | grep -c '^[^-]' || true)
  fi
  gpus=${gpus:-$(nvidia-smi --list-gpus 2>/dev/null | grep -c '^GPU' || true)}
  echo "$((gpus > 0 ? gpus : 1))"
}

# Set code to the exit code of $child, and received to the last signal that a trap has seen on the way.
wait_for_child() {
  received=''
  while true; do
    signalled=''
    code=0
    wait "$child" || code=$?
    if [[ -z $signalled ]]; then return; fi
    received=$signalled # a trap ended wait early: the child is still there
  done
}

# Signal torchrun's workers, its children. Before there are any nothing is lost: end torchrun.
signal_workers() {
  local workers
  signalled=$1
  read -ra workers < <(cat /proc/"$child"/task/*/children 2>/dev/null | tr '\n' ' ') || true
  if ((${#workers[@]})); then
    kill -s "$1" "${workers[@]}" 2>/dev/null || true
  else
    kill -TERM "$child" 2>/dev/null || true
  fi
}

# One task starts all of a node's processes: it is not to be bound to the cores of one.
srun_flags=(--kill-on-bad-exit=1 --ntasks-per-node=1 --cpu-bind=none)
read -ra further_srun_flags <<<"${SRUN_FLAGS:-}"
srun_flags+=("${further_srun_flags[@]}")
main "$@"
