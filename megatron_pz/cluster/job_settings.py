"""Resolve the settings of a job from its environment and flags, once for all nodes and before any process starts.

    CONFIG=FILE python -m megatron_pz.cluster.job_settings [--dry-run] -- [flags of megatron_pz.train]

Writes to stdout, each field ended by a NUL byte: the run directory, a free port, and the flags for every process.
``slurm/launch.sh`` lists the variables: CONFIG, MODEL, DATA_PATH, SAVE and MASTER_PORT.
"""

from __future__ import annotations

import fcntl
import os
import re
import shlex
import socket
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from megatron_pz.cluster.local_node import LAST_PORT, positive
from megatron_pz.config.parse import load_yaml, parse_run_config, read_run_config
from megatron_pz.config.schema import RunConfig
from megatron_pz.runtime.errors import BadInput, exits_with_one_line, one_line

PROGRAM = "megatron_pz.train"
RLVR = "megatron_pz.rlvr"
TRAINING_MODULES = (PROGRAM, "megatron_pz.cold_start", "megatron_pz.baselines", RLVR)
"""Modules that take a recipe and write a run directory; all other modules get their flags unchanged."""
TRACKER = "latest_checkpointed_iteration.txt"
"""Megatron's file with the iteration of a directory's newest checkpoint."""
_FIRST_PORT, _PORTS, _TRIES = 20000, 10000, 100


@dataclass(frozen=True)
class JobSettings:
    """The settings that all nodes of a job must agree on."""

    save: str
    """The run directory."""
    flags: tuple[str, ...]
    """Flags of ``megatron_pz.train``, complete."""
    config: RunConfig
    """The configuration that results from the flags."""
    iteration: int | None
    """Iteration of the checkpoint in ``save`` from which the run continues; None for a new run."""


def resolve(environment: Mapping[str, str], given: Sequence[str], *, check: bool = True) -> JobSettings:
    """Combine the variables of a job with the flags given to its script; the flags take precedence.

    ``{task}`` in SAVE and in a flag stands for the task's number in a job array, ``{seed}`` for the run's seed.
    Without ``check``, neither the combination of all settings nor the existence of the files is checked.

    Raises:
        BadInput: a variable or flag is refused, tasks of an array would share a run directory, or the directory holds
            a run of another model.
    """
    recipe = environment.get("CONFIG", "")
    if not recipe:
        raise BadInput("CONFIG is not set: give the recipe, e.g. CONFIG=examples/qwen3_4b/config.yaml")
    if not Path(recipe).is_file():
        raise BadInput(f"CONFIG={recipe}: no such file under {Path.cwd()}")
    flags = ["--config", recipe]
    if model := environment.get("MODEL"):
        flags += ["--hf-model", model]
    if data_path := environment.get("DATA_PATH"):
        flags += ["--data-path", *split_data_path(data_path)]
    task = environment.get("SLURM_ARRAY_TASK_ID", "")
    words = [_fill(word, "task", task) for word in given]
    seed = read_run_config([*flags, *(_fill(word, "seed", "0") for word in words)], PROGRAM).training.seed
    words = [_fill(word, "seed", str(seed)) for word in words]
    template = value_of("--save", given)
    chosen = read_run_config([*flags, *words], PROGRAM).training
    if template is None:
        template = environment.get("SAVE") or chosen.save or f"runs/{Path(recipe).resolve().parent.name}"
    save = _fill(_fill(template, "task", task), "seed", str(seed))
    if unknown := re.search(r"\{\w*\}", save):
        raise BadInput(f"SAVE={template}: {unknown[0]} is not a placeholder; {{task}} and {{seed}} are")
    tasks = int(environment.get("SLURM_ARRAY_TASK_COUNT", "2") if task else "1")
    varies = "{task}" in template or ("{seed}" in template and "{task}" in (value_of("--seed", given) or ""))
    if tasks > 1 and not varies:
        raise BadInput(
            f"SAVE={template}: all tasks of this array would write into one directory; put {{task}} into it, "
            f"or {{seed}} together with --seed {{task}}"
        )
    flags += words
    if value_of("--save", words) is None:
        flags += ["--save", save]
    iteration = None if chosen.load else newest_iteration(Path(save))
    if iteration is not None:
        flags += ["--load", save]
    config = (parse_run_config if check else read_run_config)(flags, PROGRAM)
    if iteration is not None:
        _refuse_another_model(Path(save), config)
    return JobSettings(save, tuple(flags), config, iteration)


def missing(settings: JobSettings) -> list[str]:
    """Return a line for each reason, among those visible in files, to refuse a run with these settings."""
    found = []
    try:
        parse_run_config(settings.flags, PROGRAM)
    except BadInput as error:
        found.append(str(error))
    data, questions = settings.config.data, settings.config.questions
    files = (("--question-path", questions.question_path), ("--valid-question-path", questions.valid_question_path))
    found += [f"{flag} {path}: no such file" for flag, paths in files for path in paths if not Path(path).is_file()]
    for flag, prefixes in (("--data-path", data.data_path), ("--valid-data-path", data.valid_data_path)):
        absent = [each for each in prefixes if not each.replace(".", "", 1).isdecimal() and not _is_dataset(each)]
        found += [f"{flag} {prefix}: no file {prefix}.idx" for prefix in absent]
    return found


def _is_dataset(prefix: str) -> bool:
    return Path(f"{prefix}.idx").is_file()


def split_data_path(value: str) -> list[str]:
    """Split DATA_PATH as a shell would, so that quotes keep spaces. An existing prefix with spaces is one word."""
    if Path(f"{value}.idx").is_file():
        return [value]
    try:
        return shlex.split(value)
    except ValueError as error:
        raise BadInput(f"DATA_PATH={value}: {error}") from None


def value_of(flag: str, words: Sequence[str]) -> str | None:
    """Return the last value of a flag in either form, ``--flag value`` or ``--flag=value``; None without one."""
    found = None
    for position, word in enumerate(words):
        if word == flag and position + 1 < len(words):
            found = words[position + 1]
        elif word.startswith(f"{flag}="):
            found = word.partition("=")[2]
    return found


def newest_iteration(save: Path) -> int | None:
    """Return the iteration of the newest checkpoint in a run directory, None if there is none."""
    try:
        return int((save / TRACKER).read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise BadInput(f"{save / TRACKER} cannot be read as an iteration: {error}") from None


def set_aside_if_unfinished(save: Path, config: RunConfig) -> Path | None:
    """Rename the directory of a run that ended before its first checkpoint, and return its new name.

    Such a run starts from the beginning, and its metrics and samples stay under the new name. A directory is left as
    it is if it has a checkpoint, does not belong to a run, is locked by a live run, or if the run saves no checkpoints.

    Raises:
        BadInput: the file system refuses.
    """
    if not config.training.save_interval or not (save / "config.yaml").is_file() or (save / TRACKER).exists():
        return None
    try:
        return _set_aside(save)
    except (OSError, ValueError) as error:  # a directory without a name, such as ., is a ValueError
        raise BadInput(
            f"SAVE={save} holds a run without a checkpoint and cannot be renamed ({one_line(error)}): choose another"
        ) from None


def _set_aside(save: Path) -> Path | None:
    with (save / ".lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return None  # the run itself refuses, and names the process that holds the lock
        except OSError:  # a file system without locks
            pass
        number = 0
        while (target := save.with_name(f"{save.name}.attempt-{number}")).exists():
            number += 1
        save.rename(target)
    return target


def free_port(environment: Mapping[str, str]) -> int:
    """Return a free port of this machine, the same for equal job numbers if it is free.

    Raises BadInput if MASTER_PORT is given and in use, or a variable is not a number.
    """
    if given := environment.get("MASTER_PORT"):
        port = positive("MASTER_PORT", given)
        if port > LAST_PORT:
            raise BadInput(f"MASTER_PORT={port}: give a port of at most {LAST_PORT}")
        if not _is_free(port):
            raise BadInput(f"MASTER_PORT={port} is in use on {socket.gethostname()}: give another, or leave it out")
        return port
    first = positive("SLURM_JOB_ID", job) if (job := environment.get("SLURM_JOB_ID")) else 0
    for step in range(_TRIES):
        if _is_free(port := _FIRST_PORT + (first + step) % _PORTS):
            return port
    raise BadInput(f"no free port among {_TRIES} from {_FIRST_PORT + first % _PORTS}: give one in MASTER_PORT")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True


def _fill(text: str, name: str, value: str) -> str:
    placeholder = f"{{{name}}}"
    if placeholder in text and not value:
        raise BadInput(f"{text}: {placeholder} has a value in job arrays only (sbatch --array=1-4)")
    return text.replace(placeholder, value)


def _refuse_another_model(save: Path, config: RunConfig) -> None:
    if not (save / "config.yaml").is_file():
        return
    before = load_yaml(save / "config.yaml").model.hf_model
    if before and Path(before).resolve() != Path(config.model.hf_model).resolve():
        raise BadInput(
            f"--save {save} holds a run of {before}, and this one trains {config.model.hf_model}: "
            f"choose another SAVE, or add --load {save} to continue it"
        )


@exits_with_one_line
def main() -> None:
    """Print the settings of the job that this process belongs to."""
    words = sys.argv[1:]
    dry_run = words[:1] == ["--dry-run"]
    given = words[words.index("--") + 1 :]
    if os.environ.get("MODULE", PROGRAM) not in TRAINING_MODULES:
        task = os.environ.get("SLURM_ARRAY_TASK_ID", "")
        _print("", free_port(os.environ), [_fill(word, "task", task) for word in given])
        return
    settings = resolve(os.environ, given, check=not dry_run)
    if dry_run:
        for warning in missing(settings):
            print(f"warning: {warning}", file=sys.stderr)
    save = Path(settings.save)
    if not dry_run and settings.iteration is None and (moved := set_aside_if_unfinished(save, settings.config)):
        print(f"{save} held a run without a checkpoint; it is now {moved}", file=sys.stderr)
    if settings.iteration is not None:
        print(f"Continuing from iteration {settings.iteration} in {save}", file=sys.stderr)
    _print(settings.save, 0 if dry_run else free_port(os.environ), settings.flags)


def _print(save: str, port: int, flags: Iterable[str]) -> None:
    sys.stdout.write("".join(f"{field}\0" for field in (save, str(port), *flags)))


if __name__ == "__main__":
    main()
