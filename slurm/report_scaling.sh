#!/usr/bin/env bash
#SBATCH --job-name=report_scaling
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --mem=0
#SBATCH --time=0:10:00
#SBATCH --no-requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.out
#
# Made by tools/make_slurm_scripts.py.
#
# Compare runs of several sizes, after slurm/scaling.sh. From the root of the checkout:
#
#   sbatch --dependency=afterany:JOB:JOB slurm/report_scaling.sh RUN RUN --output DIR
set -euo pipefail

# sbatch runs a copy of this file from its spool directory, and was called in the checkout.
root=${ROOT:-${SLURM_SUBMIT_DIR:-$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)}}
if [[ ! -f $root/slurm/launch.sh ]]; then
  echo "error: $root is not the checkout: call sbatch from its root, or name it in ROOT" >&2
  exit 2
fi
export MODULE=tools.report_scaling NPROC_PER_NODE=${NPROC_PER_NODE:-1}
RECIPE_SCRIPT=$(readlink -f "${BASH_SOURCE[0]}")
export RECIPE_SCRIPT
exec bash "$root/slurm/launch.sh" "$@"
