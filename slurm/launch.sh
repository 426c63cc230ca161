#!/usr/bin/env bash
# Start one training run: on the nodes of a Slurm job, or here as one node without a job. Recipes call it.
#
#   CONFIG=FILE slurm/launch.sh [--print | --check | --help] [flags of megatron_pz.train]
#
# --print shows what would run and starts nothing. --check examines a job on a login node before it is submitted.
# Neither needs Slurm. Paths are relative to the root of the checkout.
#
#   CONFIG           the recipe (YAML); required
#   MODULE           module that every process runs; default megatron_pz.train. Tools need no CONFIG.
#   SAVE             the run directory; default: the recipe's own (training.save), or runs/RECIPE after the recipe's
#                    directory. If it holds a checkpoint, the run continues from it. --save and --load take precedence.
#                    In a job array {task} stands for the task's number and {seed} for the seed, in SAVE and in flags:
#                    SAVE=runs/seed-{task} sbatch --array=1-4 slurm/pz_qwen3_4b.sh --seed {task}
#   MODEL, DATA_PATH the recipe's --hf-model and --data-path; DATA_PATH is split as a shell splits words
#   NPROC_PER_NODE   processes a node; default: the node's GPUs (the smaller count of SLURM_GPUS_ON_NODE and
#                    CUDA_VISIBLE_DEVICES), or 1 without any
#   ACTIVATE         file that every node sources first, or none; default .venv/bin/activate if it is there and the
#                    nodes run in no container
#   PYTHON           interpreter; default python
#   SRUN_FLAGS       further flags of srun, e.g. --container-image=IMAGE --container-mounts=PATHS (pyxis)
#   NODE_PREFIX      put before every node's command, e.g. apptainer exec --nv IMAGE
#   MASTER_PORT      rendezvous port on the first node; default: a free one, from the job's number on
#   OMP_NUM_THREADS  default: the node's cores divided among its processes
#   LOGS             directory of the logs; default logs: LOGS/NAME-JOB/attempt-N/node-K.log
#   ROOT             the checkout; default: the directory that the job was submitted from
#   GPU_MEMORY       GiB of a GPU, for the memory plan of --check
#   SIGNAL_LEAD      seconds before the time limit at which Slurm sends SIGUSR1; the same as in sbatch --signal=B:USR1@…
#
# SIGUSR1 (Slurm's --signal): every process finishes its step, a checkpoint is saved, and the job is requeued if that
# checkpoint is newer than the attempt. A minute before the time limit a job whose step takes longer is requeued too, if
# it has saved a checkpoint meanwhile. A preempted job is requeued.
# SIGUSR2 (scancel --signal=USR2 --batch JOB) or SIGTERM: finish the step, save, do not requeue; without Slurm, Ctrl-C.
# Exit codes: 0 done, 1 failure, 2 bad input, 3 stopped after a checkpoint, 4 training has collapsed. docs/cluster.md
# has the details.
set -euo pipefail

main() {
  cd "$(dirname "${BASH_SOURCE[0]}")/.."
  case ${1:-} in
    --on-node) run_node "${@:2}" ;;
    --settings)
      activate
      exec "$python" -m megatron_pz.cluster.job_settings "${@:2}"
      ;;
  esac
  local argument mode=run given=()
  for argument in "$@"; do
    case $argument in
      --print | --check) mode=${argument#--} ;;
      -h | --help) mode=help ;;
      *) given+=("$argument") ;;
    esac
  done
  if [[ $mode == help ]]; then
    sed -n '2,/^[^#]/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
    echo "The flags of megatron_pz.train: ${PYTHON:-python} -m megatron_pz.train --help"
  elif [[ $mode == check ]]; then
    activate
    exec "$python" -m megatron_pz.cluster.job_check -- "${given[@]}"
  elif [[ $mode == print ]]; then
    print_commands "${given[@]}"
  elif [[ -n ${SLURM_JOB_ID:-} ]]; then
    run_job "${given[@]}"
  else
    resolve bash slurm/launch.sh --settings -- "${given[@]}"
    run_node "${flags[@]}"
  fi
}

fail() {
  echo "error: $*" >&2
  exit 2
}

# Split a text at blanks and line breaks into the array of the given name.
words() {
  read -rd '' -a "$1" <<<"$2" || true # it ends at the end of the text, never at a delimiter
}

# Set save, port and flags from what the command prints (megatron_pz.cluster.job_settings).
resolve() {
  local file fields code=0
  file=$(mktemp)
  "$@" >"$file" || code=$?
  mapfile -d '' -t fields <"$file"
  rm -f "$file"
  ((code == 0)) || exit "$code"
  save=${fields[0]} port=${fields[1]} flags=("${fields[@]:2}")
}

# Print the file that a node sources first; nothing if there is none.
activation() {
  if [[ ${ACTIVATE:-} == none ]]; then
    return
  elif [[ -n ${ACTIVATE:-} ]]; then
    [[ -f $ACTIVATE ]] || fail "ACTIVATE=$ACTIVATE: no such file"
    echo "$ACTIVATE"
  elif [[ -z ${NODE_PREFIX:-} && ${SRUN_FLAGS:-} != *--container* && -f .venv/bin/activate ]]; then
    echo .venv/bin/activate # in a container it would hide the container's own Python
  fi
}

# Source the environment; set activated and python.
activate() {
  activated=$(activation)
  # shellcheck source=/dev/null
  if [[ -n $activated ]]; then source "$activated"; fi
  python=${PYTHON:-python}
  command -v "$python" >/dev/null || fail "PYTHON=$python: no such command; set ACTIVATE, or PYTHON to an interpreter"
}

print_commands() {
  resolve bash slurm/launch.sh --settings --dry-run -- "$@"
  activate
  node_command
  echo "recipe      ${CONFIG:-none}"
  echo "save        ${save:-none}"
  echo "node setup  ${activated:-none}"
  echo "under Slurm, on every node of the job:"
  echo "  srun $(quoted "${srun_flags[@]}")${NODE_PREFIX:+$NODE_PREFIX }bash slurm/launch.sh --on-node …, which starts"
  echo "  $(quoted "$python" -m megatron_pz.launch --nproc-per-node="${NPROC_PER_NODE:-GPUS}")--nnodes=\$SLURM_NNODES" \
    "--node-rank=\$SLURM_NODEID --master-addr=HEAD_NODE --master-port=${MASTER_PORT:-FROM_JOB_ID}" \
    "$(quoted "$module" "${flags[@]}")"
  echo "without Slurm, on this machine:"
  echo "  $(quoted "${command[@]}" "$module" "${flags[@]}")"
}

quoted() {
  printf '%q ' "$@"
}

# Slurm, first node: resolve the settings there, start one task on every node, and decide how the job ends.
run_job() {
  local nodes prefix first lead=${SIGNAL_LEAD:-0}
  [[ $lead =~ ^[0-9]{1,9}$ ]] || fail "SIGNAL_LEAD=$lead: give a whole number of seconds"
  lead=$((10#$lead)) # 0900 is not an octal number
  end=$(end_time)
  if ((end)) && ((end - $(date +%s) <= lead)); then
    fail "$(((end - $(date +%s) + 59) / 60)) minutes are left to the time limit, and Slurm asks for a checkpoint" \
      "$lead seconds before it: give a longer --time, or a shorter lead by" \
      "sbatch --signal=B:USR1@SECONDS --export=ALL,SIGNAL_LEAD=SECONDS"
  fi
  mapfile -t nodes < <(scontrol show hostnames "${SLURM_JOB_NODELIST:-}")
  # The address that Slurm itself uses: the names of nodes need not be in DNS.
  MASTER_ADDR=$(scontrol show node --oneliner "${nodes[0]:-}" | sed -n 's/.*NodeAddr=\([^ ]*\).*/\1/p') || true
  [[ -n $MASTER_ADDR ]] || fail "scontrol does not tell the address of the first node of" \
    "SLURM_JOB_NODELIST=${SLURM_JOB_NODELIST:-}"
  words prefix "${NODE_PREFIX:-}"
  resolve srun "${srun_flags[@]}" --nodes=1 --ntasks=1 --relative=0 "${prefix[@]}" \
    bash slurm/launch.sh --settings -- "$@"
  MASTER_PORT=$port
  NODE_LOGS=${LOGS:-logs}/$SLURM_JOB_NAME-$SLURM_JOB_ID/attempt-${SLURM_RESTART_COUNT:-0}
  export MASTER_ADDR MASTER_PORT NODE_LOGS
  echo "Job $SLURM_JOB_ID, attempt ${SLURM_RESTART_COUNT:-0}: $SLURM_JOB_NODELIST, head $MASTER_ADDR:$MASTER_PORT," \
    "logs $NODE_LOGS"
  first=$(iteration)
  srun "${srun_flags[@]}" "${prefix[@]}" bash slurm/launch.sh --on-node "${flags[@]}" &
  child=$!
  trap 'ask_to_stop USR1; requeue_at_the_last_minute' USR1
  trap 'ask_to_stop USR2' USR2
  trap 'ask_to_stop TERM' TERM
  wait_for_child
  end_helpers
  if ((code > 128 && code != 130)); then code=1; fi # srun's code for a launcher or a node that was killed
  if ((code == 0 || code == 2)); then
    return "$code"
  elif preempted; then
    requeue "Preempted"
  elif [[ ${asked:-} == USR1 ]] && ((code == 3)); then
    if (($(iteration) > first)); then
      requeue "Stopped at iteration $(iteration) before the time limit"
    else
      echo "error: no checkpoint since this attempt began at iteration $first: not requeued. A step and a checkpoint" \
        "must fit into the time limit: give a longer --time" >&2
      return 1
    fi
  fi
  return "$code"
}

# Iteration of the run's newest checkpoint; 0 without one.
iteration() {
  cat "$save/latest_checkpointed_iteration.txt" 2>/dev/null || echo 0
}

requeue() {
  echo "$1: back into the queue"
  scontrol requeue "$SLURM_JOB_ID"
}

# Whether Slurm has preempted the job. It sends SIGTERM to the job's steps then, and not to this shell.
preempted() {
  scontrol show job --oneliner "$SLURM_JOB_ID" | grep -q 'PreemptTime=[0-9]'
}

# The time limit in seconds since 1970; 0 if there is none. Slurm before 23.02 does not set the variable.
end_time() {
  local at=${SLURM_JOB_END_TIME:-} said
  if [[ -z $at ]]; then
    said=$(squeue -h -j "$SLURM_JOB_ID" -o %e) || said=''
    at=$(date -d "${said:-unknown}" +%s 2>/dev/null) || at=0 # date takes no text for midnight
  fi
  echo "$at"
}

# Ask the processes to stop after a checkpoint. srun passes SIGUSR1 on to its tasks; it would answer SIGTERM by killing
# them. A node that is still being set up misses the signal, so it is repeated with growing pauses.
ask_to_stop() {
  signalled=$1
  asked=${asked:-$1}
  kill -USR1 "$child" 2>/dev/null || true
  if [[ -z ${repeating:-} ]]; then
    {
      for pause in 5 10 20 40 80; do
        sleep "$pause"
        kill -USR1 "$child" 2>/dev/null || break
      done
    } &>/dev/null &
    repeating=$!
  fi
}

# Slurm does not requeue a job that reaches its time limit. A minute before, requeue one whose step takes too long.
requeue_at_the_last_minute() {
  local left=$((end - $(date +%s) - 60))
  if ((left > 0)) && [[ -z ${last_minute:-} ]]; then # no return: in a trap it has the code of what the trap interrupted
    {
      sleep "$left" &>/dev/null
      if (($(iteration) > first)); then
        requeue "The step takes longer than the time left; on from iteration $(iteration)"
      else
        echo "error: no checkpoint since this attempt began at iteration $first, and the time is up: not requeued" >&2
      fi
    } &
    last_minute=$!
  fi
}

end_helpers() {
  local helper
  for helper in ${repeating:-} ${last_minute:-}; do
    kill "$helper" 2>/dev/null || true
  done
}

# Set code to the exit code of $child, however many traps end the waiting early.
wait_for_child() {
  while true; do
    signalled=''
    code=0
    wait "$child" || code=$?
    if [[ -z $signalled ]]; then return; fi
  done
}

# One node: the launcher and its workers. The launcher takes the place of this shell, and so gets the signals.
run_node() {
  trap '' USR1
  activate
  export HF_HUB_OFFLINE=${HF_HUB_OFFLINE:-1} # compute nodes have no network
  export PYTHONWARNINGS=${PYTHONWARNINGS:-ignore} TORCH_CPP_LOG_LEVEL=${TORCH_CPP_LOG_LEVEL:-ERROR}
  node_command
  exec "${command[@]}" "$module" "$@" </dev/null
}

# Set command: the launcher of this node, up to the module's name; export OMP_NUM_THREADS.
node_command() {
  local counts processes threads
  counts=$("$python" -m megatron_pz.cluster.local_node) || exit
  read -r processes threads <<<"$counts"
  export OMP_NUM_THREADS=$threads
  command=("$python" -m megatron_pz.launch --nproc-per-node="$processes")
  if [[ -n ${MASTER_ADDR:-} && -n ${SLURM_NODEID:-} ]]; then
    # A fixed rank for each node, so that a resumed run finds its ranks where they were.
    command+=(--nnodes="$SLURM_NNODES" --node-rank="$SLURM_NODEID")
    command+=(--master-addr="$MASTER_ADDR" --master-port="$MASTER_PORT")
  fi
  if [[ -n ${NODE_LOGS:-} ]]; then command+=(--log="$NODE_LOGS/node-$SLURM_NODEID.log"); fi
}

module=${MODULE:-megatron_pz.train}
# One task starts all of a node's processes: it is not to be bound to the cores of one. The launchers end each other;
# --wait is for one that cannot.
srun_flags=(--kill-on-bad-exit=0 --wait=90 --ntasks-per-node=1 --cpu-bind=none)
further=()
words further "${SRUN_FLAGS:-}"
srun_flags+=("${further[@]}")
main "$@"
