"""Imitate the remains of a killed run."""

from __future__ import annotations

import shutil
from pathlib import Path

from megatron_pz.checkpoint import checkpoint_files


def without_steps(folder: Path, *, after: int) -> None:
    """Reduce a run's folder to the state after a kill between the checkpoint of this step and the next one."""
    for iteration in list(checkpoint_files.iterations(folder)):
        if iteration > after:
            shutil.rmtree(checkpoint_files.folder_of(folder, iteration))
    (folder / checkpoint_files.LATEST).write_text(str(after))
