#!/usr/bin/env bash
# Make a virtual environment from a lock and compile Transformer Engine's part for torch against it.
#
#   install.sh VENV LOCK WHEELHOUSE
#
# Wheels in WHEELHOUSE are taken first; where it holds any, the network is not used. TRANSFORMER_ENGINE=0 leaves the
# compilation out, for a machine without CUDA's compiler. PYTHON names the interpreter (3.12).
set -euo pipefail

(($# == 3)) || {
  echo "error: give VENV, LOCK and WHEELHOUSE" >&2
  exit 2
}
venv=$1 lock=$2 wheelhouse=$3
transformer_engine=$(sed -n 's/^transformer-engine==//p' "$lock")

from=()
if compgen -G "$wheelhouse/*.whl" >/dev/null; then from=(--no-index --find-links "$wheelhouse"); fi
"${PYTHON:-python3.12}" -m venv "$venv"
pip=("$venv/bin/python" -m pip install --no-cache-dir --no-deps "${from[@]}")
"${pip[@]}" -r "$lock"
if [[ ${TRANSFORMER_ENGINE:-1} == 1 ]]; then
  # An sdist, or the wheel that containers/wheelhouse.sh has made of it.
  NVTE_FRAMEWORK=pytorch NVTE_PYTORCH_FORCE_BUILD=TRUE "${pip[@]}" --no-build-isolation \
    "transformer-engine-torch==$transformer_engine"
  "$venv/bin/python" -c 'import transformer_engine.pytorch'
fi
