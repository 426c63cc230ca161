"""Copy metrics to TensorBoard, and to Weights & Biases when a project is named."""

from __future__ import annotations

import math
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from megatron_pz.runtime.errors import BadInput
from megatron_pz.runtime.files import write_text_whole


class Sink(Protocol):
    """A destination of metrics."""

    def write(self, iteration: int, metrics: Mapping[str, float]) -> None:
        """Write the metrics of one iteration; NaN is left out."""

    def close(self) -> None:
        """Flush and close."""


class TensorBoardSink:
    """Scalars under ``<save>/tensorboard``."""

    def __init__(self, folder: Path, resume_iteration: int) -> None:
        """Open ``folder`` and hide events after ``resume_iteration`` that an interrupted run left (``purge_step``)."""
        from torch.utils.tensorboard import SummaryWriter

        purge = resume_iteration + 1 if resume_iteration else None
        self._writer = SummaryWriter(log_dir=str(folder), purge_step=purge, flush_secs=10)

    def write(self, iteration: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            if not math.isnan(value):
                self._writer.add_scalar(name, value, iteration)

    def close(self) -> None:
        self._writer.close()


class WandbSink:
    """A Weights & Biases run, named after the run's directory, which a resumed run continues.

    Its id is drawn at the first start and stored in ``<save>/wandb_id``, because directory names are not unique.
    """

    def __init__(self, project: str, save_dir: Path, resume_iteration: int) -> None:
        """Start or resume the run.

        Raises:
            BadInput: the package wandb is not installed.
        """
        try:
            import wandb
        except ImportError:
            raise BadInput(
                f"wandb_project is {project!r} but the package wandb is not installed: install it, or leave it empty"
            ) from None
        name = save_dir.resolve().name
        run_id = _run_id(save_dir, resume_iteration)
        self._run = wandb.init(project=project, name=name, id=run_id, dir=str(save_dir), resume="allow")

    def write(self, iteration: int, metrics: Mapping[str, float]) -> None:
        self._run.log({name: value for name, value in metrics.items() if not math.isnan(value)}, step=iteration)

    def close(self) -> None:
        self._run.finish()


def _run_id(save_dir: Path, resume_iteration: int) -> str:
    path = save_dir / "wandb_id"
    if path.is_file():
        return path.read_text(encoding="utf-8").strip()
    # Runs that began before this file existed use the name of their directory.
    run_id = save_dir.resolve().name if resume_iteration else secrets.token_hex(8)
    write_text_whole(path, f"{run_id}\n")
    return run_id
