#!/usr/bin/env bash
# Run the tests that this machine can run; what is skipped is named with the reason.
#
#   ./tests/run.sh               everything: linters, types, unit, distributed, system, and gpu where there is one
#   ./tests/run.sh unit          linters, types and the unit tests: the everyday check, under two minutes on two cores
#   ./tests/run.sh distributed   only the tests under torchrun on gloo
#   ./tests/run.sh system        only those with vLLM and whole runs
#   ./tests/run.sh avx2          a slice of the system tests as a CPU without AVX-512 runs them (tools/without_avx512.sh)
#   ./tests/run.sh versions      what depends on Megatron-Core, under each promised version of it (--help); not in `all`
#   ./tests/run.sh system -k resume -x     what follows the group's name goes to pytest
#
# The first call makes .venv/ (examples/setup_environment.sh). No test reaches for the network.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

usage() {
  sed -n '2,/^$/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
}

group=all
case ${1:-} in
  unit | distributed | system | avx2 | gpu | all | versions) group=$1 && shift ;;
  -h | --help) usage && exit ;;
  "") ;;
  *)
    echo "error: unknown group '$1': choose unit, distributed, system, avx2, gpu, versions or all" >&2
    exit 2
    ;;
esac

./examples/setup_environment.sh
export PATH="$PWD/.venv/bin:$PATH"
cores=$(env -u OMP_NUM_THREADS nproc) # nproc prints OMP_NUM_THREADS where that is set
# The machine's cores are shared out by the tests themselves: one thread a process, as conftest.py sets it too.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} TOKENIZERS_PARALLELISM=false
unset PYTHONDONTWRITEBYTECODE # some images set it: every process would compile the project, and pytest its tests, again
export HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 VLLM_NO_USAGE_STATS=1 DO_NOT_TRACK=1

if [[ $group == versions ]]; then exec python -m tests.core_versions "$@"; fi

failed=()
check() {
  local name=$1
  shift
  if "$@"; then echo "ok: $name"; else failed+=("$name"); fi
}

# mypy takes a core for some twenty seconds where it finds no cache: beside the tests, which wait now and then.
start_mypy() {
  mypy_log=$(mktemp)
  mypy --no-error-summary >"$mypy_log" 2>&1 &
  mypy=$!
  trap 'kill "$mypy" 2>/dev/null || true; rm -f "$mypy_log"' EXIT
}

await_mypy() {
  local code=0
  wait "$mypy" || code=$?
  cat "$mypy_log"
  return "$code"
}

mypy=
if [[ $group == unit || $group == all ]]; then
  start_mypy
  mapfile -t shell_scripts < <(find . -name .venv -prune -o -name '*.sh' -print | sort)
  check "ruff" ruff check --output-format concise .
  check "ruff format" ruff format --check --quiet .
  check "shellcheck (${#shell_scripts[@]} scripts)" shellcheck "${shell_scripts[@]}" .ci/run
fi

groups=("$group")
[[ $group != all ]] || groups=(unit distributed system avx2 gpu)
run_pytest() {
  local code=0
  "${as_cpu[@]}" python -m pytest -q -rfEs --durations=5 "$@" "${pytest_flags[@]}" || code=$?
  ((code == 0 || (code == 5 && ${#pytest_flags[@]}))) # 5: the flags select none of these tests
}

pytest_flags=("$@") as_cpu=(env)
avx2_slice=(tests/system/test_cpu_kernels.py tests/system/test_slurm_toy.py)
processes=() # folders whose tests start processes of their own
on_gpu=false
for name in "${groups[@]}"; do
  case $name in
    unit) check "pytest tests/unit" run_pytest tests/unit --numprocesses "$((cores < 4 ? cores : 4))" --dist worksteal ;;
    distributed | system) processes+=("tests/$name") ;;
    gpu)
      if nvidia-smi --list-gpus >/dev/null 2>&1; then
        on_gpu=true
      else
        echo "skipped: tests/gpu: no NVIDIA GPU (nvidia-smi lists none); NCCL, Transformer Engine, FP8 and speed are unchecked"
      fi
      ;;
  esac
done
if [[ -n $mypy ]]; then check "mypy" await_mypy; fi
if ((${#processes[@]})); then # two files at a time: their processes wait for each other, and for engines that load
  check "pytest ${processes[*]}" run_pytest "${processes[@]}" --numprocesses "$((cores < 2 ? 1 : 2))" --dist loadfile \
    --no-loadscope-reorder --ignore-glob '*/test_slurm*.py'
fi
if [[ " ${processes[*]} " == *" tests/system "* ]]; then # alone: Slurm's daemons have deadlines of their own
  check "pytest tests/system/test_slurm*.py" run_pytest tests/system/test_slurm*.py
fi
if $on_gpu; then check "pytest tests/gpu" run_pytest tests/gpu; fi

if [[ " ${groups[*]} " == *" avx2 "* ]]; then
  if grep -q avx512f /proc/cpuinfo; then
    as_cpu=(./tools/without_avx512.sh)
    check "pytest without AVX-512: ${avx2_slice[*]}" run_pytest "${avx2_slice[@]}"
  else
    echo "skipped: the slice without AVX-512: this CPU has none, so that all tests run that way"
  fi
fi

if ((${#failed[@]})); then
  printf 'FAILED: %s\n' "${failed[@]}"
  exit 1
fi
