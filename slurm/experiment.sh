#!/usr/bin/env bash
#SBATCH --job-name=experiment
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --exclusive
#SBATCH --mem=0
#SBATCH --time=8:00:00
#SBATCH --no-requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.out
#
# Made by tools/make_slurm_scripts.py.
#
# Evaluate and compare the runs of an experiment, after the array that trains them. From the root of the checkout:
#
#   python tools/run_experiment.py EXPERIMENT.yaml --output DIR --sbatch slurm/pz_qwen3_4b.sh
#
# submits this script, too.
set -euo pipefail

# sbatch runs a copy of this file from its spool directory, and was called in the checkout.
root=${ROOT:-${SLURM_SUBMIT_DIR:-$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)}}
if [[ ! -f $root/slurm/launch.sh ]]; then
  echo "error: $root is not the checkout: call sbatch from its root, or name it in ROOT" >&2
  exit 2
fi
export MODULE=tools.run_experiment NPROC_PER_NODE=${NPROC_PER_NODE:-1}
RECIPE_SCRIPT=$(readlink -f "${BASH_SOURCE[0]}")
export RECIPE_SCRIPT
exec bash "$root/slurm/launch.sh" "$@"
