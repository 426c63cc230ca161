#!/usr/bin/env bash
# Make the environment .venv/ at the root of this checkout, from a lock under requirements/.
#
#   ./examples/setup_environment.sh             for the CPU, with Python 3.11 or 3.12: cpu-py311.lock or cpu-py312.lock
#   ./examples/setup_environment.sh --cluster   for NVIDIA GPUs, with Python 3.12: cluster-py312.lock
#
# examples/quickstart.sh and tests/run.sh call it. A second call finds everything in place and returns at once; an
# interrupted one is made again; two at once wait for each other. PYTHON names the interpreter to build on.
set -euo pipefail

torch_version=2.13.0
torch_cpu_index=https://download.pytorch.org/whl/cpu
needed_mib=5000 # 2.9 GB installed, the rest is pip's room to unpack
device=cpu pythons=(3.11 3.12) needed_python="3.11 or 3.12"
watcher=

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=$root/.venv
lock= # chosen by the device and the version of Python
log=$venv/setup.log
choice=$venv/setup_choice       # the device, and the interpreter that the environment was built on
stamp=$venv/setup_done         # written last: what the environment was made from
in_progress=$venv/setup_started # there while the set-up runs, and after it was interrupted

fail() {
  echo "error: $*" >&2
  exit 1
}

# What the environment depends on. The place counts too: a virtual environment does not survive being moved. And so do
# the sources of the compiled scanner, which is made again when they change.
recipe() {
  {
    echo "$root" && cat "$lock" "$root/setup.py" "${BASH_SOURCE[0]}"
    cat "$root"/megatron_pz/wikitext/scanner{_sources.py,/*.py,/*.pxd} 2>/dev/null || true
  } | sha256sum
}

is_done() {
  [[ -x $venv/bin/python && -f $stamp && $(<"$stamp") == "$1" ]]
}

# The environment that is made here may be active in the caller's shell: its own interpreter is not one to build on.
find_python() {
  local candidate PATH=${PATH//"$venv/bin:"/}
  for candidate in ${PYTHON:+"$PYTHON"} "${pythons[@]/#/python}" python3; do
    if "$candidate" -c 'import sys, venv, ensurepip; sys.exit("%d.%d" % sys.version_info[:2] not in sys.argv[1:])' \
      "${pythons[@]}" 2>/dev/null; then
      command -v "$candidate"
      return
    fi
  done
  fail "Python $needed_python with its venv module is needed, and ${PYTHON:-python3} is $("${PYTHON:-python3}" \
    --version 2>&1 | tail -n 1): install it (Debian: python3.11 and python3.11-venv) or name one in PYTHON"
}

# The lock for the interpreter, whose version its --version names.
choose_lock() {
  local version
  version=$("$1" --version)
  version=${version#Python 3.}
  lock=$root/requirements/$device-py3${version%%.*}.lock
}

# Run a step with its output in the log. Where a person watches, show what pip has got to so far.
step() {
  local message=$1 since=$SECONDS
  shift
  echo "== $message: $*" >>"$log"
  if [[ -t 1 ]]; then
    watch_log "$message" &
    watcher=$!
  else
    echo "$message"
  fi
  "$@" >>"$log" 2>&1
  stop_watching
  if [[ -t 1 ]]; then printf '\r%s: %d s\e[K\n' "$message" "$((SECONDS - since))"; fi
}

watch_log() {
  local packages
  while kill -0 $$ 2>/dev/null; do
    packages=$(awk '/^== / {n = 0} /^(Collecting|Processing) / {n++} END {if (n) print " " n " packages"}' "$log")
    printf '\r%s …%s\e[K' "$1" "$packages"
    sleep 0.5
  done
}

stop_watching() {
  if [[ -n $watcher ]]; then
    kill "$watcher" 2>/dev/null || true
    wait "$watcher" 2>/dev/null || true
    watcher=
  fi
}

explain_failure() {
  local code=$?
  stop_watching
  if ((code != 0)); then
    {
      echo
      echo "error: the set-up of $venv failed; the end of its log:"
      tail -n 15 "$log" | sed 's/^/  /'
      echo "the whole log: $log. Running this again starts over and reuses pip's downloads."
    } >&2
  fi
}

install_torch() {
  local pip=("$venv/bin/python" -m pip install --no-deps)
  [[ $device == cpu ]] || return 0 # the cluster's lock has it
  # An index or a folder that pip is set up with may hold the CPU build; PyPI itself has only builds with CUDA.
  "${pip[@]}" "torch==$torch_version+cpu" || "${pip[@]}" --index-url "$torch_cpu_index" "torch==$torch_version"
}

check_environment() {
  "$venv/bin/python" - "$device" <<'PYTHON'
import importlib.util
import sys

import megatron.core
import torch
import transformers

import megatron_pz
from megatron_pz.wikitext import scanner_form

wanted, has_cuda = sys.argv[1], torch.version.cuda is not None
assert has_cuda == (wanted == "cluster"), f"torch {torch.__version__} is not for the environment '{wanted}'"
assert importlib.util.find_spec("vllm"), "vLLM is not importable"
print("Wikipedia scanner:", scanner_form.FORM)
print(megatron_pz.__version__, torch.__version__, megatron.core.__version__, transformers.__version__)
PYTHON
}

set_up() {
  local python=$1 wanted=$2 began=$SECONDS action
  # An environment that someone else made stays and is completed; a half-made one of ours is made again.
  if [[ -f $in_progress ]]; then rm -rf "$venv"; fi
  if [[ -x $venv/bin/python ]]; then action="update .venv/"; else action="make .venv/"; fi
  mkdir -p "$venv"
  echo "$device $python" >"$choice"
  echo "$$" >"$in_progress"
  rm -f "$stamp"
  : >"$log"
  trap explain_failure EXIT
  export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1
  echo "Setting up .venv/ (log: $log)"
  [[ -x $venv/bin/pip ]] || step "[1/4] $action with $("$python" --version)" "$python" -m venv "$venv"
  step "[2/4] torch $torch_version, $device build" install_torch
  step "[3/4] $(grep -c == "$lock") locked packages" "$venv/bin/python" -m pip install --no-deps -r "$lock"
  step "[4/4] megatron-pz itself" "$venv/bin/python" -m pip install --no-deps --no-build-isolation -e "$root"
  step "      check" check_environment
  echo "$wanted" >"$stamp"
  rm -f "$in_progress"
  trap - EXIT
  echo "Environment ready in $((SECONDS - began)) s"
}

main() {
  local wanted python free_mib
  case ${1:-} in
    "") ;;
    --cluster) device=cluster ;;
    *) fail "unknown argument '$1': give none, or --cluster" ;;
  esac
  # The environment that is there keeps its kind where none is asked for.
  if [[ -z ${1:-}${PYTHON:-} && -f $choice ]]; then read -r device PYTHON <"$choice"; fi
  if [[ $device == cluster ]]; then pythons=(3.12) needed_python=3.12 needed_mib=25000; fi
  # aarch64 is installed from the same locks; their markers leave out what is for x86-64. Nobody has run it yet.
  case "$device $(uname -sm)" in
    "cpu Linux x86_64" | "cpu Linux aarch64" | "cluster Linux x86_64") ;;
    cpu*) fail "the environment is for Linux on x86-64 or aarch64, this is $(uname -sm)" ;;
    *) fail "the cluster's environment is for Linux on x86-64, this is $(uname -sm)" ;;
  esac
  python=$(find_python)
  choose_lock "$python"
  wanted=$(recipe)
  if is_done "$wanted"; then return; fi
  exec 9<"$lock"
  if ! flock --nonblock 9; then
    echo "Another set-up of this checkout is at work; waiting for it"
    flock 9
  fi
  if is_done "$wanted"; then return; fi # by then: another may have finished since the first look
  free_mib=$(df -Pm "$root" | awk 'NR == 2 {print $4}')
  ((free_mib >= needed_mib)) || [[ -x $venv/bin/pip ]] ||
    fail "$root has $free_mib MiB free, the environment needs $needed_mib MiB"
  set_up "$python" "$wanted"
}

main "$@"
