"""Write the scripts of ``slurm/`` that are submitted by sbatch, from one template and one table.

    python tools/make_slurm_scripts.py [--output DIR]

sbatch reads ``#SBATCH`` lines from the script itself, so every script holds them all.
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from pathlib import Path

from megatron_pz.config.command_line import Parser
from megatron_pz.runtime.errors import BadInput, exits_with_one_line

ROOT = Path(__file__).resolve().parents[1]
LEAD = 600
"""Seconds before the time limit at which Slurm signals a training job to save a checkpoint."""


@dataclass(frozen=True)
class Script:
    """One row of the table."""

    name: str
    title: str
    nodes: int
    time: str
    config: str = ""
    """The recipe; a script with one trains, resumes and requeues."""
    module: str = ""
    """Module that every process runs in place of ``megatron_pz.train``; also of a script with a recipe."""
    gpus: int = 8
    processes: int = 0
    """Processes a node; 0: one for every GPU."""
    usage: str = ""
    """Command lines for the head of a script that does not train."""
    resumes: bool = False
    """Whether a requeued job continues its work, as training does."""


SCRIPTS = (
    Script("pz_qwen3_4b", "PretrainZero on Qwen3-4B-Base, the paper's recipe", 2, "24:00:00", "qwen3_4b"),
    Script("pz_qwen3_8b", "PretrainZero on Qwen3-8B-Base, the paper's recipe", 4, "24:00:00", "qwen3_8b"),
    Script("pz_qwen3_30b_a3b", "PretrainZero on Qwen3-30B-A3B-Base", 8, "24:00:00", "qwen3_30b_a3b"),
    Script("pz_smollm3_3b", "PretrainZero on SmolLM3-3B-Base", 1, "24:00:00", "smollm3_3b"),
    Script(
        "rlvr_qwen3_4b",
        "RLVR on Qwen3-4B, from the base model or from a PretrainZero run (MODEL)",
        2,
        "24:00:00",
        "rlvr_qwen3_4b",
        module="megatron_pz.rlvr",
    ),
    Script(
        "preprocess",
        "Preprocess a dump on nodes that need no GPU",
        1,
        "24:00:00",
        module="tools.preprocess_wikipedia",
        gpus=0,
        processes=1,
        resumes=True,
        usage="sbatch slurm/preprocess.sh --input DUMP --output-prefix data/enwiki --tokenizer-model DIR\n\n"
        "On several nodes: an array over parts, then the same command without --part joins them to the same bytes.\n\n"
        "  sbatch --array=1-8 slurm/preprocess.sh FLAGS --part {task}/8\n"
        "  sbatch --dependency=afterok:JOB slurm/preprocess.sh FLAGS",
    ),
    Script(
        "convert",
        "Convert a checkpoint; more processes share a model by the flags of its layout",
        1,
        "4:00:00",
        module="tools.convert_checkpoint",
        processes=1,
        usage="sbatch slurm/convert.sh megatron-to-hf --load runs/qwen3_4b --hf-model DIR --save DIR",
    ),
    Script(
        "evaluate",
        "Evaluate Hugging Face models on held-out passages or benchmarks, which the GPUs of a node share",
        1,
        "4:00:00",
        module="tools.evaluate",
        usage="sbatch slurm/evaluate.sh --config examples/qwen3_4b/config.yaml --hf-model DIR "
        "--valid-data-path PREFIX\n"
        "  sbatch slurm/evaluate.sh --hf-model DIR DIR --benchmarks mmlu_pro,gsm8k --data DIR --results DIR",
    ),
    Script(
        "report_scaling",
        "Compare runs of several sizes, after slurm/scaling.sh",
        1,
        "0:10:00",
        module="tools.report_scaling",
        gpus=0,
        processes=1,
        usage="sbatch --dependency=afterany:JOB:JOB slurm/report_scaling.sh RUN RUN --output DIR",
    ),
    Script(
        "experiment",
        "Evaluate and compare the runs of an experiment, after the array that trains them",
        1,
        "8:00:00",
        module="tools.run_experiment",
        processes=1,
        usage="python tools/run_experiment.py EXPERIMENT.yaml --output DIR --sbatch slurm/pz_qwen3_4b.sh\n\n"
        "submits this script, too.",
    ),
    Script(
        "check_nodes",
        "Examine nodes: all-reduce rate, equal versions, the slowest GPU",
        2,
        "0:10:00",
        module="megatron_pz.cluster.node_check",
        usage="sbatch --nodes=4 slurm/check_nodes.sh",
    ),
)

TEMPLATE = """\
#!/usr/bin/env bash
#SBATCH --job-name=@NAME@
#SBATCH --nodes=@NODES@
#SBATCH --ntasks-per-node=1
@GPUS@#SBATCH --exclusive
#SBATCH --mem=0
#SBATCH --time=@TIME@
@SIGNAL@#SBATCH --open-mode=append
#SBATCH --output=%x-%j.out
#
# Made by tools/make_slurm_scripts.py.
#
@HEAD@
set -euo pipefail

# sbatch runs a copy of this file from its spool directory, and was called in the checkout.
root=${ROOT:-${SLURM_SUBMIT_DIR:-$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)}}
if [[ ! -f $root/slurm/launch.sh ]]; then
  echo "error: $root is not the checkout: call sbatch from its root, or name it in ROOT" >&2
  exit 2
fi
@EXPORTS@
RECIPE_SCRIPT=$(readlink -f "${BASH_SOURCE[0]}")
export RECIPE_SCRIPT
exec bash "$root/slurm/launch.sh" "$@"
"""

TRAINING = """\
{title}. From the root of the checkout:

  sbatch slurm/{name}.sh                              # nodes of eight GPUs: {nodes}
  sbatch --nodes=8 slurm/{name}.sh --train-iters 400  # sbatch's flags before the script, the run's after it
  bash slurm/{name}.sh --check                        # on a login node: checks the job before it is submitted
  bash slurm/{name}.sh --print                        # what would run; nothing is started
  NPROC_PER_NODE=2 bash slurm/{name}.sh               # no Slurm: this machine, two processes

slurm/launch.sh --help lists the variables: MODEL, DATA_PATH, SAVE, NPROC_PER_NODE, SRUN_FLAGS, … --signal leaves {lead}
seconds to finish a step and save; the job is then requeued and resumes from that checkpoint."""


def render(script: Script) -> str:
    """Return the text of a script."""
    if script.config:
        head = TRAINING.format(title=script.title, name=script.name, nodes=script.nodes, lead=LEAD)
        signal = f"#SBATCH --signal=B:USR1@{LEAD}\n#SBATCH --requeue\n"
        exports = (
            f"export CONFIG=${{CONFIG:-examples/{script.config}/config.yaml}} SIGNAL_LEAD=${{SIGNAL_LEAD:-{LEAD}}}"
        )
        if script.module:
            exports += f"\nexport MODULE={script.module}"
    else:
        head = f"{script.title}. From the root of the checkout:\n\n  {script.usage}"
        signal = "#SBATCH --requeue\n" if script.resumes else "#SBATCH --no-requeue\n"
        exports = f"export MODULE={script.module}"
        if script.processes:
            exports += f" NPROC_PER_NODE=${{NPROC_PER_NODE:-{script.processes}}}"
    fields = {
        "NAME": script.name,
        "NODES": str(script.nodes),
        "TIME": script.time,
        "GPUS": f"#SBATCH --gpus-per-node={script.gpus}\n" if script.gpus else "",
        "SIGNAL": signal,
        "HEAD": textwrap.indent(head, "# ", lambda line: True).replace("# \n", "#\n"),
        "EXPORTS": exports,
    }
    text = TEMPLATE
    for name, value in fields.items():
        text = text.replace(f"@{name}@", value)
    return text


@exits_with_one_line
def main(argv: list[str] | None = None) -> None:
    """Write all scripts."""
    parser = Parser("Write the scripts of slurm/ that are submitted by sbatch.")
    parser.add_argument("--output", type=Path, default=ROOT / "slurm", help="directory for the scripts")
    flags = parser.parse_args(argv)
    for script in SCRIPTS:
        path = flags.output / f"{script.name}.sh"
        try:
            path.write_text(render(script), encoding="utf-8")
            path.chmod(0o755)
        except OSError as error:
            raise BadInput(f"{path} cannot be written: {error.strerror}") from None


if __name__ == "__main__":
    main()
