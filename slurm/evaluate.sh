#!/usr/bin/env bash
#SBATCH --job-name=evaluate
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --exclusive
#SBATCH --mem=0
#SBATCH --time=4:00:00
#SBATCH --no-requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.out
#
# Made by tools/make_slurm_scripts.py.
#
# Evaluate Hugging Face models on held-out passages or benchmarks, which the GPUs of a node share. From the root of the checkout:
#
#   sbatch slurm/evaluate.sh --config examples/qwen3_4b/config.yaml --hf-model DIR --valid-data-path PREFIX
#   sbatch slurm/evaluate.sh --hf-model DIR DIR --benchmarks mmlu_pro,gsm8k --data DIR --results DIR
set -euo pipefail

# sbatch runs a copy of this file from its spool directory, and was called in the checkout.
root=${ROOT:-${SLURM_SUBMIT_DIR:-$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)}}
if [[ ! -f $root/slurm/launch.sh ]]; then
  echo "error: $root is not the checkout: call sbatch from its root, or name it in ROOT" >&2
  exit 2
fi
export MODULE=tools.evaluate
RECIPE_SCRIPT=$(readlink -f "${BASH_SOURCE[0]}")
export RECIPE_SCRIPT
exec bash "$root/slurm/launch.sh" "$@"
