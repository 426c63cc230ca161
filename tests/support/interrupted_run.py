"""What is left of a run that was killed."""

from __future__ import annotations

import shutil
from pathlib import Path

from megatron_pz.checkpoint import checkpoint_files


def without_steps(folder: Path, *, after: int) -> None:
    """Leave what a run that was killed between its checkpoint of this step and the next one leaves."""
    for iteration in list(checkpoint_files.iterations(folder)):
        if iteration > after:
            shutil.rmtree(checkpoint_files.folder_of(folder, iteration))
    (folder / checkpoint_files.LATEST).write_text(str(after))
