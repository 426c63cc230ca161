#!/usr/bin/env bash
# Check and measure everything that needs a GPU, on a machine with one NVIDIA card. No GPU has run it yet.
#
#   ./tests/gpu/run.sh                       all parts, in the active environment (its python)
#   ./tests/gpu/run.sh --part model          one part; may be given again: model, rollout, train, benchmarks
#   ./tests/gpu/run.sh --wheels DIR          install DIR/*.whl first, without network, into .cache/gpu_site/
#   ./tests/gpu/run.sh --model DIR           a small model (Qwen3 or Llama); default: the one that the quickstart fetched
#   ./tests/gpu/run.sh --output PATH         write PATH.json and PATH.md; default: benchmarks/results/DATE_CARD
#   ./tests/gpu/run.sh --seconds N           stop a part after N seconds; default: 600
#   ./tests/gpu/run.sh --commit ID           commit to record, if this is a copy without its git folder
#
# A part that takes longer than ten minutes is stopped, and its measurements so far are kept. The part model needs only
# Megatron-Core and Transformer Engine, and uses random weights without a model; train and rollout need vLLM and a model.
# The exit code is 0 if no check failed; the table marks a figure that misses its goal, which is not a failure.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

all_parts=(model rollout train benchmarks)
part_seconds=600

fail() {
  echo "error: $*" >&2
  exit 2
}

usage() {
  sed -n '2,/^$/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
}

parts=() wheels='' model='' output='' commit=''
while (($#)); do
  flag=$1
  case $flag in
    -h | --help) usage && exit ;;
    --part | --wheels | --model | --output | --seconds | --commit) (($# >= 2)) || fail "$flag needs a value (--help)" ;;
    *) fail "unknown flag '$flag' (--help lists them)" ;;
  esac
  case $flag in
    --part)
      [[ " ${all_parts[*]} " == *" $2 "* ]] || fail "unknown part '$2': choose ${all_parts[*]}"
      parts+=("$2")
      ;;
    --wheels) wheels=$2 ;;
    --model) model=$2 ;;
    --output) output=$2 ;;
    --commit) commit=$2 ;;
    --seconds)
      [[ $2 =~ ^[1-9][0-9]*$ ]] || fail "--seconds $2: give a whole number"
      part_seconds=$2
      ;;
  esac
  shift 2
done
((${#parts[@]})) || parts=("${all_parts[@]}")
[[ -z $model || -f $model/config.json ]] || fail "--model $model: no config.json there; give a Hugging Face directory"
[[ -z $wheels || -n $(compgen -G "$wheels/*.whl") ]] || fail "--wheels $wheels: no *.whl there"
card=$(nvidia-smi --query-gpu=name --format=csv,noheader 2>/dev/null | head -n 1) || true
[[ -n $card ]] || fail "no NVIDIA GPU here (nvidia-smi lists none): nothing was run"

python=$(command -v python || command -v python3) || fail "no python on the PATH: activate an environment"
paths=$PWD # the tests also start commands, and the package need not be installed
if [[ -n $wheels ]]; then
  site=$PWD/.cache/gpu_site
  rm -rf "$site"
  "$python" -m pip install --quiet --no-index --no-deps --no-cache-dir --target "$site" "$wheels"/*.whl
  paths+=:$site
fi
export PYTHONPATH=$paths${PYTHONPATH:+:$PYTHONPATH}
export HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 VLLM_NO_USAGE_STATS=1 DO_NOT_TRACK=1
export CUDA_DEVICE_MAX_CONNECTIONS=1 # Megatron-Core asks for it under tensor and sequence parallelism
[[ -z $model ]] || PZ_GPU_MODEL=$(cd "$model" && pwd)
export PZ_GPU_MODEL=${PZ_GPU_MODEL:-}
PZ_GPU_RESULTS=$(mktemp -d)
export PZ_GPU_RESULTS PZ_GPU_COMMIT=$commit
trap 'rm -rf "$PZ_GPU_RESULTS"' EXIT

echo "== $card: ${parts[*]}"
"$python" -m megatron_pz.doctor || true # says what is missing; what needs it is skipped below, with the reason

# The tests of a part, in one process; each test with a rollout engine in one of its own, for vLLM gives back all of the
# card only when its process ends.
run_part() {
  local tests=("tests/gpu/test_$1.py") own=() deadline=$((SECONDS + part_seconds)) left code worst=0 test
  if [[ $1 == rollout ]] && "$python" -c 'import importlib.util as i, sys; sys.exit(i.find_spec("vllm") is None)'; then
    mapfile -t own < <("$python" -m pytest --collect-only -q "${tests[0]}" | grep ::)
    if ((${#own[@]})); then tests=("${own[@]}"); fi
  fi
  for test in "${tests[@]}"; do
    left=$((deadline - SECONDS)) code=0
    timeout --kill-after=20 "$((left > 0 ? left : 1))" "$python" -m pytest -q -rfEs -s "$test" || code=$?
    ((code == 0)) || worst=$code
    if ((code == 124 || code == 137)); then break; fi
  done
  return "$worst"
}

failed=()
for part in "${parts[@]}"; do
  echo "== part $part"
  code=0
  run_part "$part" || code=$?
  case $code in
    0) ;;
    124 | 137) failed+=("$part (stopped after $part_seconds s)") ;;
    *) failed+=("$part") ;;
  esac
done

if compgen -G "$PZ_GPU_RESULTS/*.json" >/dev/null; then
  name=$(tr -cs '[:alnum:]' '_' <<<"${card#NVIDIA }" | sed 's/_*$//')
  output=${output:-benchmarks/results/$(date +%F)_$name}
  "$python" -m benchmarks.gpu.results "$PZ_GPU_RESULTS" "$output"
  echo "== result: $output.json and $output.md"
fi
if ((${#failed[@]})); then
  printf 'FAILED: %s\n' "${failed[@]}"
  exit 1
fi
