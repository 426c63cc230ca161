#!/usr/bin/env bash
#SBATCH --job-name=pz_qwen3_8b
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --exclusive
#SBATCH --mem=0
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@600
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.out
#
# Made by tools/make_slurm_scripts.py.
#
# PretrainZero on Qwen3-8B-Base, the paper's recipe. From the root of the checkout:
#
#   sbatch slurm/pz_qwen3_8b.sh                              # nodes of eight GPUs: 4
#   sbatch --nodes=8 slurm/pz_qwen3_8b.sh --train-iters 400  # sbatch's flags before the script, the run's after it
#   bash slurm/pz_qwen3_8b.sh --check                        # on a login node: checks the job before it is submitted
#   bash slurm/pz_qwen3_8b.sh --print                        # what would run; nothing is started
#   NPROC_PER_NODE=2 bash slurm/pz_qwen3_8b.sh               # no Slurm: this machine, two processes
#
# slurm/launch.sh --help lists the variables: MODEL, DATA_PATH, SAVE, NPROC_PER_NODE, SRUN_FLAGS, … --signal leaves 600
# seconds to finish a step and save; the job is then requeued and resumes from that checkpoint.
set -euo pipefail

# sbatch runs a copy of this file from its spool directory, and was called in the checkout.
root=${ROOT:-${SLURM_SUBMIT_DIR:-$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)}}
if [[ ! -f $root/slurm/launch.sh ]]; then
  echo "error: $root is not the checkout: call sbatch from its root, or name it in ROOT" >&2
  exit 2
fi
export CONFIG=${CONFIG:-examples/qwen3_8b/config.yaml} SIGNAL_LEAD=${SIGNAL_LEAD:-600}
RECIPE_SCRIPT=$(readlink -f "${BASH_SOURCE[0]}")
export RECIPE_SCRIPT
exec bash "$root/slurm/launch.sh" "$@"
