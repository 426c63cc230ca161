"""Write a run's metrics and samples to its directory, the console and other sinks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from megatron_pz.monitoring.console import Console
from megatron_pz.monitoring.metrics import METRICS_FILE, IterationLog, StepMetrics
from megatron_pz.monitoring.sample_files import SampleFiles
from megatron_pz.monitoring.samples import Sample
from megatron_pz.monitoring.sinks import Sink, TensorBoardSink, WandbSink


class RunLogger:
    """Keeps a run's metrics and samples under ``save_dir`` and shows its progress. Only rank 0 writes or prints.

    ========================  ==================================
    ``metrics.jsonl``         every metric of every step
    ``tensorboard/``          the same for TensorBoard
    ``samples.jsonl``         samples of some steps
    ``samples/iter_*.md``     the same samples as readable pages
    ========================  ==================================

    Samples take at most ``samples_budget_mib`` (:mod:`megatron_pz.monitoring.sample_files`; 0: no limit). Lines and
    pages beyond ``resume_iteration``, the iteration of the loaded checkpoint (0 for a new run), belong to steps that
    will be repeated, and are removed.

    Raises:
        BadInput: ``save_dir`` cannot be written.
    """

    def __init__(
        self,
        save_dir: Path,
        total_iterations: int,
        *,
        rank: int = 0,
        wandb_project: str = "",
        resume_iteration: int = 0,
        samples_budget_mib: float = 0.0,
    ) -> None:
        self._writes = rank == 0
        if not self._writes:
            return
        self._samples = SampleFiles(save_dir, resume_iteration, budget_mib=samples_budget_mib)
        self._metrics = IterationLog(save_dir / METRICS_FILE, resume_iteration)
        self._sinks: list[Sink] = [TensorBoardSink(save_dir / "tensorboard", resume_iteration)]
        if wandb_project:
            self._sinks.append(WandbSink(wandb_project, save_dir, resume_iteration))
        self._console = Console(total_iterations, resume_iteration)

    def log(self, iteration: int, metrics: Mapping[str, float], *, show: bool = True) -> None:
        """Record one step's metrics (names in :mod:`megatron_pz.monitoring.metrics`); ``show`` prints its line."""
        if not self._writes:
            return
        self._metrics.append(StepMetrics(iteration, metrics).to_json())
        for sink in self._sinks:
            sink.write(iteration, metrics)
        if show:
            self._console.show(iteration, metrics)

    def samples(self, iteration: int, samples: Sequence[Sample]) -> None:
        """Record some samples of a step."""
        if self._writes:
            self._samples.write(iteration, samples)

    def close(self) -> None:
        """Flush and close everything."""
        if not self._writes:
            return
        self._metrics.close()
        self._samples.close()
        self._console.close()
        for sink in self._sinks:
            sink.close()
