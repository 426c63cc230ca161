#!/usr/bin/env bash
# Make a virtual environment from a lock and compile Transformer Engine's part for torch against it.
#
#   install.sh VENV LOCK WHEELHOUSE
#   install.sh VENV CHECKOUT         # then megatron_pz itself, in place
#
# Wheels in WHEELHOUSE are taken first; where it holds any, the network is not used. TRANSFORMER_ENGINE=0 leaves the
# compilation out, for a machine without CUDA's compiler. PYTHON names the interpreter (3.12).
set -euo pipefail

fail() {
  echo "error: $*" >&2
  exit 2
}

# Without ensurepip, as Ubuntu's Python is in many images, the interpreter's own pip installs into the environment.
make_environment() {
  if "$python" -c 'import ensurepip' 2>/dev/null; then
    "$python" -m venv "$venv"
  else
    "$python" -m pip --version >/dev/null 2>&1 || fail "$python has neither ensurepip nor pip: install python3.12-venv"
    "$python" -m venv --without-pip "$venv"
  fi
}

install() {
  local pip=("$venv/bin/python" -m pip)
  [[ -x $venv/bin/pip ]] || pip=("$python" -m pip --python "$venv/bin/python")
  "${pip[@]}" install --no-cache-dir --no-deps "$@"
}

(($# == 2 || $# == 3)) || fail "give VENV, LOCK and WHEELHOUSE, or VENV and CHECKOUT"
venv=$1 python=${PYTHON:-python3.12}
if (($# == 2)); then
  [[ -x $venv/bin/python ]] || fail "$venv is not an environment: make it from a lock first"
  # The interpreter that the environment was made on: the environment's own comes first on the image's PATH.
  python=$("$venv/bin/python" -c 'import sys; print(sys._base_executable)')
  install --no-build-isolation --editable "$2"
  exit
fi
lock=$2 wheelhouse=$3
transformer_engine=$(sed -n 's/^transformer-engine==//p' "$lock")

from=()
if compgen -G "$wheelhouse/*.whl" >/dev/null; then from=(--no-index --find-links "$wheelhouse"); fi
make_environment
install "${from[@]}" -r "$lock"
if [[ ${TRANSFORMER_ENGINE:-1} == 1 ]]; then
  # An sdist, or the wheel that containers/wheelhouse.sh has made of it.
  NVTE_FRAMEWORK=pytorch NVTE_PYTORCH_FORCE_BUILD=TRUE install "${from[@]}" --no-build-isolation \
    "transformer-engine-torch==$transformer_engine"
  "$venv/bin/python" -c 'import transformer_engine.pytorch'
fi
