#!/usr/bin/env bash
# Run a scaling study: the same recipe on several numbers of nodes, a few steps each, and a report of the speed-ups.
#
#   slurm/scaling.sh --nodes 1,2,4,8 --output runs/scaling [--flags] [-- flags of megatron_pz.train]
#   slurm/scaling.sh --processes 1,2 --output runs/scaling      # no Slurm: one run after the other on this machine
#
#   --nodes LIST          one job of each size is submitted, and a report that waits for all of them
#   --processes LIST      instead of --nodes: processes of this machine
#   --output DIR          a run's directory, DIR/SIZE, for each; must not hold one of them
#   --recipe FILE         script of the model; default slurm/pz_qwen3_4b.sh, which reads MODEL, DATA_PATH, …
#   --passages-each N     weak scaling: N passages a step for each node (or process); without it the recipe's number of
#                         passages is shared out, strong scaling
#   --steps N             steps of a run, of which the first warms up; default 6
#   --sbatch-flags TEXT   of every job, e.g. "--partition=gpu --time=2:00:00"; the time limit is an hour otherwise
#   --print               show the commands and run nothing
#
# The runs write no checkpoints. On a CPU set OMP_NUM_THREADS, so that a process has as many threads in every run.
set -euo pipefail

main() {
  cd "$(dirname "${BASH_SOURCE[0]}")/.."
  parse_flags "$@"
  local size
  for size in "${sizes[@]}"; do
    [[ ! -e $output/$size ]] || fail "--output $output: holds $size already; give another directory"
  done
  for size in "${sizes[@]}"; do start "$size"; done
  report
}

fail() {
  echo "error: $*" >&2
  exit 2
}

parse_flags() {
  local list=''
  kind='' output='' recipe=slurm/pz_qwen3_4b.sh passages='' steps=6 sbatch_flags=() printing=false further=() jobs=()
  while (($#)); do
    case $1 in
      -h | --help) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" && exit ;;
      --print) printing=true && shift && continue ;;
      --) shift && further=("$@") && break ;;
      --nodes | --processes | --output | --recipe | --passages-each | --steps | --sbatch-flags) ;;
      *) fail "unknown flag '$1' (--help lists them; flags of the training come behind --)" ;;
    esac
    (($# >= 2)) || fail "$1 needs a value (--help)"
    case $1 in
      --nodes | --processes)
        [[ -z $kind ]] || fail "give one of --nodes and --processes, once"
        kind=${1#--} list=$2
        ;;
      --output) output=$2 ;;
      --recipe) recipe=$2 ;;
      --passages-each) passages=$2 ;;
      --steps) steps=$2 ;;
      --sbatch-flags) read -ra sbatch_flags <<<"$2" ;;
    esac
    shift 2
  done
  [[ -n $kind ]] || fail "which sizes? give --nodes 1,2,4 under Slurm, or --processes 1,2 on this machine"
  [[ $list =~ ^[1-9][0-9]*(,[1-9][0-9]*)*$ ]] || fail "--$kind $list: give whole numbers of at least 1, e.g. 1,2,4"
  IFS=, read -ra sizes <<<"$list"
  [[ -z $(printf '%s\n' "${sizes[@]}" | sort | uniq -d) ]] || fail "--$kind $list: names a size twice"
  [[ -n $output ]] || fail "--output is missing: give a directory for the runs"
  [[ -f $recipe ]] || fail "--recipe $recipe: no such file under $PWD"
  [[ ${passages:-1} =~ ^[1-9][0-9]*$ ]] || fail "--passages-each $passages: give a whole number of at least 1"
  [[ $steps =~ ^([2-9]|[1-9][0-9]+)$ ]] || fail "--steps $steps: give at least 2, the first one warms up"
  $printing || [[ $kind == processes ]] || command -v sbatch >/dev/null ||
    fail "no sbatch here: --nodes needs Slurm, --processes does not"
}

start() {
  local size=$1 command flags
  flags=(--save "$output/$size" --save-interval 0 --train-iters "$steps")
  if [[ -n $passages ]]; then flags+=(--passages-per-step "$((passages * size))"); fi
  flags+=("${further[@]}")
  if [[ $kind == nodes ]]; then
    command=(sbatch --parsable --job-name="scaling-$size" --nodes="$size" --time=1:00:00 --no-requeue)
    command+=(--output="$output/$size.log" "${sbatch_flags[@]}" "$recipe")
  else
    command=(env NPROC_PER_NODE="$size" bash "$recipe")
  fi
  command+=("${flags[@]}")
  if $printing; then
    printf '%q ' "${command[@]}" && echo
    jobs+=("JOB_$size")
    return
  fi
  mkdir -p "$output"
  if [[ $kind == nodes ]]; then
    local job
    job=$("${command[@]}")
    jobs+=("${job%%;*}")
    echo "$size nodes: job ${jobs[-1]}"
  else
    "${command[@]}"
  fi
}

report() {
  local command runs=("${sizes[@]/#/$output/}")
  if [[ $kind == nodes ]]; then
    command=(sbatch --dependency="afterany$(printf ':%s' "${jobs[@]}")" --job-name=scaling-report)
    command+=(--output="$output/report.log" "${sbatch_flags[@]}" slurm/report_scaling.sh "${runs[@]}" --output "$output")
  else
    command=("${PYTHON:-python}" tools/report_scaling.py "${runs[@]}" --output "$output")
  fi
  if $printing; then
    printf '%q ' "${command[@]}" && echo
  else
    "${command[@]}"
  fi
}

main "$@"
