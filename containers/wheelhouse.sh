#!/usr/bin/env bash
# Fetch every wheel of a lock into a directory, for machines without a network.
#
#   containers/wheelhouse.sh LOCK DIR
#
# Run it with the Python that the wheels are for (PYTHON, 3.12 by default) where the registry can be reached, and carry
# DIR over. containers/install.sh, or `pip install --no-index --find-links DIR --no-deps -r LOCK`, installs from it.
# With CUDA's compiler and an environment of the lock on the PATH, also build the wheel of Transformer Engine's part for
# torch: pip wheel --no-deps --no-build-isolation --wheel-dir DIR transformer-engine-torch==VERSION
set -euo pipefail

(($# == 2)) || {
  echo "error: give LOCK and DIR" >&2
  exit 2
}
lock=$1 directory=$2
mkdir -p "$directory"
"${PYTHON:-python3.12}" -m pip download --no-deps --only-binary :all: --dest "$directory" --requirement "$lock"
wanted=$(grep -c == "$lock")
found=$(find "$directory" -name '*.whl' | wc -l)
((found >= wanted)) || {
  echo "error: $directory has $found wheels, $lock asks for $wanted" >&2
  exit 1
}
echo "$found wheels in $directory ($(du -sh "$directory" | cut -f1))"
