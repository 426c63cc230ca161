"""Check on a login node whether a job can run: ``slurm/pz_qwen3_4b.sh --check [flags]``.

Prints a line for every check and exits with code 2 if one fails. ``RECIPE_SCRIPT`` names the script whose ``#SBATCH``
lines request GPUs and time; ``GPU_MEMORY`` is the memory of one GPU in GiB, 80 by default.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from megatron_pz.checkpoint.checkpoint_files import folder_of, latest_iteration, read_header
from megatron_pz.cluster.job_settings import PROGRAM, RLVR, TRAINING_MODULES, JobSettings, missing, resolve
from megatron_pz.cluster.local_node import count_gpus, positive
from megatron_pz.config.command_line import Parser
from megatron_pz.hf.architecture import Architecture
from megatron_pz.planning.memory import GIB, plan_memory
from megatron_pz.run.inputs import open_passages, open_tokenizer, require_prompt_budget
from megatron_pz.run.questions import RunQuestions
from megatron_pz.runtime.errors import BadInput, exits_with_one_line

_UNITS = (1, 60, 3600, 86400)
_OPTIONS = (
    ("--time", "-t"),
    ("--nodes", "-N"),
    ("--ntasks", "-n"),
    ("--ntasks-per-node",),
    ("--gpus", "-G"),
    ("--gpus-per-node",),
    ("--gpus-per-task",),
    ("--gres",),
)
"""The options of sbatch that the checks read."""
OWN_STATE = {
    PROGRAM: "consumed_passages",
    RLVR: "consumed_questions",
    "megatron_pz.cold_start": "examples",
    "megatron_pz.baselines": "examples",
}
"""Key that identifies the checkpoints of a module (TRAINING_MODULES): a part of its objective's ``state_dict``."""
_NO_LIMIT = ("UNLIMITED", "INFINITE", "0")


def requested(script: str) -> dict[str, str]:
    """Return the options in the ``#SBATCH`` lines of a script, by the long names of :data:`_OPTIONS`.

    As sbatch does, it stops at the first command and takes the last of several values.

    Raises:
        BadInput: an option lacks its value, or a line its closing quote.
    """
    parser = Parser("", add_help=False)
    for names in _OPTIONS:
        parser.add_argument(*names, dest=names[0].removeprefix("--"))
    words: list[str] = []
    for line in script.splitlines():
        if line.strip() and not line.startswith("#"):
            break
        if re.match(r"#SBATCH\s", line):
            try:
                words += shlex.split(line.removeprefix("#SBATCH"), comments=True)
            except ValueError as error:
                raise BadInput(f"{line}: {error}") from None
    given, _ = parser.parse_known_args(words)
    return {name: value for name, value in vars(given).items() if value is not None}


def requested_gpus(headers: Mapping[str, str]) -> int:
    """Return the number of GPUs of the whole job, at least 1. A range of nodes counts as its smallest value."""
    gres = [entry for entry in headers.get("gres", "").split(",") if re.match(r"(gres/)?gpu\b", entry)]
    nodes, tasks = (
        positive(f"--{name}", headers.get(name, "1").split("-")[0]) for name in ("nodes", "ntasks-per-node")
    )
    counts = [
        count_gpus("--gpus", headers.get("gpus", "0")),
        nodes * count_gpus("--gpus-per-node", headers.get("gpus-per-node", "0")),
        nodes * sum(count_gpus("--gres", entry if ":" in entry else "1") for entry in gres),
        positive("--ntasks", headers.get("ntasks", f"{nodes * tasks}"))
        * count_gpus("--gpus-per-task", headers.get("gpus-per-task", "0")),
    ]
    return max(counts) or nodes


def seconds_of(limit: str) -> int | None:
    """Return the seconds of a Slurm time limit: minutes, MM:SS, HH:MM:SS, D-HH, D-HH:MM or D-HH:MM:SS.

    None stands for no limit: UNLIMITED, INFINITE or 0. Raises BadInput for any other text.
    """
    if limit.upper() in _NO_LIMIT:
        return None
    days, dash, clock = limit.rpartition("-")
    if not re.fullmatch("[0-9]{1,9}(:[0-9]{1,9}){0,2}", clock) or not re.fullmatch("[0-9]{1,9}" if dash else "", days):
        raise BadInput(f"--time={limit}: give minutes, HH:MM:SS, D-HH:MM or UNLIMITED")
    parts = [int(part) for part in clock.split(":")]
    if days:
        hours, minutes, seconds = (*parts, 0, 0)[:3]
    elif len(parts) == 1:
        hours, minutes, seconds = 0, parts[0], 0
    else:
        hours, minutes, seconds = (0, *parts)[-3:]
    return int(days or 0) * _UNITS[3] + hours * _UNITS[2] + minutes * _UNITS[1] + seconds


def check_writable(path: Path) -> str:
    """Return a confirmation if files can be written under ``path``, which need not exist; else raise BadInput."""
    existing = path
    while not existing.exists():
        existing = existing.parent
    try:
        with tempfile.TemporaryFile(dir=existing) as probe:
            probe.write(b"x" * 4096)
    except OSError as error:
        raise BadInput(f"{path} cannot be written: {existing}: {error.strerror}") from None
    return f"{path} can be written"


def check_lead(headers: Mapping[str, str], lead: str) -> str:
    """Compare the time limit with the lead time, in seconds, at which Slurm requests a checkpoint."""
    limit = seconds_of(headers["time"]) if "time" in headers else None
    if limit is None or not lead:
        return "no time limit in the script"
    seconds = positive("SIGNAL_LEAD", lead)
    if limit <= seconds:
        raise BadInput(f"--time={headers['time']} is no longer than the signal's lead of {seconds} s")
    return f"{headers['time']}, of which the last {seconds} s are for a step and a checkpoint"


def check_memory(settings: JobSettings, headers: Mapping[str, str], gpu: str) -> str:
    """Plan the memory of the requested GPUs, of ``gpu`` GiB each (80 if empty)."""
    try:
        gpu_memory = float(gpu or 80)
    except ValueError:
        raise BadInput(f"GPU_MEMORY={gpu}: give a number of GiB") from None
    gpus = requested_gpus(headers)
    config = settings.config
    plan = plan_memory(Architecture.from_hf(config.model.hf_model), config, gpus, gpu_memory)
    if plan.spare < 0:
        raise BadInput(
            f"{gpus} GPUs of {gpu_memory:g} GiB lack {-plan.spare / GIB:.1f} GiB each (tools/plan_cluster.py has the "
            "table; GPU_MEMORY=GIB names another size)"
        )
    return f"{gpus} GPUs of {gpu_memory:g} GiB (GPU_MEMORY): {plan.spare / GIB:.1f} GiB to spare on each"


def check_checkpoint(settings: JobSettings, module: str) -> str:
    """Compare the checkpoint to resume with its record of files, and its objective with that of the module."""
    root = settings.config.training.load
    if not root:
        return "none to continue from"
    iteration = latest_iteration(root)
    if iteration is None:
        raise BadInput(f"--load {root} has no checkpoint")
    folder = folder_of(Path(root), iteration)
    if OWN_STATE[module] not in (read_header(folder).get("common") or {}):
        raise BadInput(
            f"{folder} is of another objective than {module}: choose another SAVE, or the script that wrote it"
        )
    return f"continues after iteration {iteration} in {root}"


def check_data(settings: JobSettings, module: str) -> str:
    """Compare tokenizer, data and model, and the lengths of prompts with their limit."""
    config = settings.config
    tokenizer = open_tokenizer(config.model)
    vocabulary = Architecture.from_hf(config.model.hf_model).vocab_size
    if len(tokenizer) > vocabulary:
        raise BadInput(f"the tokenizer has {len(tokenizer)} tokens, and the model's vocabulary {vocabulary}")
    if module == RLVR:
        questions = RunQuestions.open(config, tokenizer)
        first = questions.stream.draw(config.questions.questions_per_step)
        return f"{len(first)} training questions for the first step, {len(questions.held_out)} held out"
    passages = open_passages(config.data, config.model, config.game.passages_per_step)
    require_prompt_budget(passages, tokenizer, config.game, config.rollout.max_prompt_length)
    return f"{len(passages):,} passages by the model's tokenizer, which has {len(tokenizer):,} tokens"


def examine(environment: Mapping[str, str], given: Sequence[str]) -> list[tuple[str, str, bool]]:
    """Return (subject, finding, passed) for every check."""
    results: list[tuple[str, str, bool]] = []

    def attempt(subject: str, check: Callable[[], str]) -> None:
        try:
            results.append((subject, check(), True))
        except BadInput as error:
            results.append((subject, str(error), False))

    module = environment.get("MODULE") or PROGRAM
    if module not in TRAINING_MODULES:
        raise BadInput(f"--check is for jobs that train; {module} checks its flags when it starts (--print shows them)")
    settings = resolve(environment, given, check=False)
    script = environment.get("RECIPE_SCRIPT", "")
    headers = requested(Path(script).read_text(encoding="utf-8")) if script else {}
    absent = missing(settings)
    results += [("settings", line, False) for line in absent]
    if not absent:
        results.append(("settings", f"{settings.config.training.train_iters} steps", True))
    attempt("run directory", lambda: check_writable(Path(settings.save)))
    attempt("logs", lambda: check_writable(Path(environment.get("LOGS") or "logs")))
    attempt("time limit", lambda: check_lead(headers, environment.get("SIGNAL_LEAD", "")))
    attempt("checkpoint", lambda: check_checkpoint(settings, module))
    attempt("data", lambda: check_data(settings, module))
    attempt("memory", lambda: check_memory(settings, headers, environment.get("GPU_MEMORY", "")))
    return results


@exits_with_one_line
def main() -> None:
    """Print the finding of every check; exit with code 2 if one fails."""
    words = sys.argv[1:]
    results = examine(os.environ, words[words.index("--") + 1 :])
    print(f"environment    {os.environ.get('VIRTUAL_ENV') or sys.prefix}, Python {sys.version.split()[0]}")
    for subject, finding, passed in results:
        print(f"{subject:<14} {'' if passed else 'FAILS: '}{finding}")
    failed = dict.fromkeys(subject for subject, _, passed in results if not passed)
    if failed:
        raise BadInput(f"a job would fail: {', '.join(failed)}")


if __name__ == "__main__":
    main()
