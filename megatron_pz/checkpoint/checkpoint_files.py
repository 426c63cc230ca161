"""Manage the files of checkpoints: names, the record of the latest, sealing, retention, repair after a crash.

A checkpoint is complete once its directory has its final name. One rename gives that name, after all contents have
reached the disk. An interruption before the rename leaves a hidden directory, which the next save removes.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_pz.runtime.errors import BadInput, brief
from megatron_pz.runtime.files import flush

logger = logging.getLogger(__name__)

LATEST = "latest_checkpointed_iteration.txt"
RUN_STATE = "run_state.json"
BINARY_FILES = "binary_*.pt"


@dataclass(frozen=True)
class Retention:
    """Rule for keeping checkpoints. The latest is always kept."""

    keep_last: int = 0
    """Number of newest checkpoints to keep; 0: all of them."""
    keep_every: int = 0
    """Keep every checkpoint whose iteration is a multiple of this; 0: the newest only."""

    def expired(self, iterations: list[int], latest: int | None) -> list[int]:
        """Return the iterations whose checkpoints may be deleted, oldest first."""
        if self.keep_last == 0:
            return []
        old = sorted(iterations)[: -self.keep_last]
        return [each for each in old if each != latest and (not self.keep_every or each % self.keep_every)]


# ---- names and records -----------------------------------------------------------------------------------------------


def folder_of(root: Path, iteration: int) -> Path:
    """Return the final directory of an iteration's checkpoint; it exists only when the checkpoint is complete."""
    return root / f"iter_{iteration:07d}"


def partial_folder(root: Path, iteration: int) -> Path:
    """Return the hidden directory of an iteration's checkpoint while it is written or deleted."""
    return root / f".{folder_of(root, iteration).name}.tmp"


def rank_file(rank: int) -> str:
    """Return the name of the file with a rank's own state."""
    return f"rank_{rank:05d}.pt"


def binary_file(rank: int) -> str:
    """Return the name of the file with a rank's part of the binary state."""
    return f"binary_{rank:05d}.pt"


def iterations(root: Path) -> Iterator[int]:
    """Yield the iterations of all complete checkpoints."""
    for path in root.glob("iter_*"):
        number = path.name.removeprefix("iter_")
        if number.isdecimal() and (path / RUN_STATE).is_file():
            yield int(number)


def latest_iteration(directory: str | Path) -> int | None:
    """Return the iteration of the newest complete checkpoint, or None. Raise BadInput if the record is broken."""
    record = Path(directory) / LATEST
    try:
        text = record.read_text().strip()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{record} cannot be read: {error}") from None
    if not text.isdecimal():
        raise BadInput(f"{record} holds {text[:40]!r} instead of the number of an iteration")
    return int(text)


def read_header(folder: Path) -> dict[str, Any]:
    """Return run_state.json after checking the size of every file that it lists. Raise BadInput if one differs."""
    record = folder / RUN_STATE
    try:
        header = json.loads(record.read_text())
        sizes = header["files"]
        damaged = [name for name, size in sizes.items() if _size(folder / name) != size]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BadInput(f"the checkpoint {folder} has no usable {RUN_STATE} ({brief(error)})") from None
    if damaged:
        name = damaged[0]
        raise BadInput(
            f"the checkpoint {folder} is damaged: {name} has {_size(folder / name)} bytes instead of {sizes[name]}; "
            "resume from an older one"
        )
    return header


def free_space(root: Path) -> str:
    """Describe the free space of a file system."""
    try:
        return f"{shutil.disk_usage(root).free / 2**30:.1f} GiB are free there"
    except OSError as error:
        return brief(error)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


# ---- writing ---------------------------------------------------------------------------------------------------------


def make_partial(partial: Path) -> None:
    """Create an empty directory to write into, and remove the partial directories of killed runs."""
    root = partial.parent
    root.mkdir(parents=True, exist_ok=True)
    put_back_replaced(root)
    for leftover in root.glob(".iter_*.tmp"):  # of a run that was killed while it wrote or pruned
        shutil.rmtree(leftover)
    partial.mkdir()


def put_back_replaced(root: Path) -> None:
    """Undo an interrupted replacement (see :func:`complete`), or finish one that lacks only the final deletion."""
    for replaced in root.glob(".iter_*.old"):
        final = root / replaced.name.removeprefix(".").removesuffix(".old")
        if final.exists():
            shutil.rmtree(replaced)
        else:
            os.replace(replaced, final)


def complete(partial: Path, final: Path, header: dict[str, Any]) -> None:
    """Seal the partial directory, rename it, and then record it as the latest."""
    contents = sorted(partial.rglob("*"))
    sizes = {str(path.relative_to(partial)): path.stat().st_size for path in contents if path.is_file()}
    (partial / RUN_STATE).write_text(json.dumps({**header, "files": sizes}, indent=1) + "\n")
    for path in (partial / RUN_STATE, *contents, partial):
        flush(path)
    record = _record_in_waiting(final.parent)
    record.write_text(f"{header['iteration']}\n")
    flush(record)
    # The remaining steps need no disk space.
    replaced = final.with_name(f".{final.name}.old")
    if final.exists():  # the same iteration, repeated after resuming from an earlier one
        os.replace(final, replaced)
    os.replace(partial, final)
    flush(final.parent)
    os.replace(record, final.parent / LATEST)
    flush(final.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def clean_up(partial: Path) -> None:
    """Restore the directory to its state before a failed write, as far as the disk allows."""
    shutil.rmtree(partial, ignore_errors=True)
    with suppress(OSError):
        _record_in_waiting(partial.parent).unlink(missing_ok=True)
        put_back_replaced(partial.parent)


def prune(root: Path, retention: Retention) -> None:
    """Delete expired checkpoints; log a warning for one that cannot be deleted."""
    for iteration in retention.expired(list(iterations(root)), latest_iteration(root)):
        folder, doomed = folder_of(root, iteration), partial_folder(root, iteration)
        try:
            os.replace(folder, doomed)  # hidden first: a checkpoint that is half deleted must not look whole
            shutil.rmtree(doomed)
        except OSError as error:
            logger.warning("the old checkpoint %s could not be deleted: %s", folder, error)


def _record_in_waiting(root: Path) -> Path:
    return root / f".{LATEST}.tmp"
