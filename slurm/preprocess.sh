#!/usr/bin/env bash
#SBATCH --job-name=preprocess
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --mem=0
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.out
#
# Made by tools/make_slurm_scripts.py.
#
# Preprocess a dump on nodes that need no GPU. From the root of the checkout:
#
#   sbatch slurm/preprocess.sh --input DUMP --output-prefix data/enwiki --tokenizer-model DIR
#
# On several nodes: an array over parts, then the same command without --part joins them to the same bytes.
#
#   sbatch --array=1-8 slurm/preprocess.sh FLAGS --part {task}/8
#   sbatch --dependency=afterok:JOB slurm/preprocess.sh FLAGS
set -euo pipefail

# sbatch runs a copy of this file from its spool directory, and was called in the checkout.
root=${ROOT:-${SLURM_SUBMIT_DIR:-$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)}}
if [[ ! -f $root/slurm/launch.sh ]]; then
  echo "error: $root is not the checkout: call sbatch from its root, or name it in ROOT" >&2
  exit 2
fi
export MODULE=tools.preprocess_wikipedia NPROC_PER_NODE=${NPROC_PER_NODE:-1}
RECIPE_SCRIPT=$(readlink -f "${BASH_SOURCE[0]}")
export RECIPE_SCRIPT
exec bash "$root/slurm/launch.sh" "$@"
