"""Define the interface between the training loop and the objectives, and the schedule of a run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from megatron_pz.checkpoint.sharded_state import ModelState
from megatron_pz.config.schema import RunConfig, TrainingConfig
from megatron_pz.monitoring.compute import ComputeUsed
from megatron_pz.monitoring.samples import Sample
from megatron_pz.runtime.errors import ExpectedFailure
from megatron_pz.runtime.watchdog import Watchdog
from megatron_pz.trainer.topology import Topology


@dataclass(frozen=True)
class Schedule:
    """Length, seed and checkpoint interval of a run."""

    iterations: int
    seed: int
    save_interval: int
    """Steps between checkpoints, of which the last is always saved; 0: no checkpoints at all."""
    flops: float = 0.0
    """Operations after which the run ends, if the iterations have not ended it before; 0: no bound."""

    @classmethod
    def from_config(cls, training: TrainingConfig) -> Schedule:
        """Return the schedule in the configuration."""
        return cls(training.train_iters, training.seed, training.save_interval, training.train_flops)

    def is_over(self, iteration: int, compute: ComputeUsed) -> bool:
        """Return whether the run ends after this iteration, with this compute used so far.

        Both are stored in checkpoints and are the same on all ranks, so that a resumed run ends at the same step as an
        uninterrupted one.
        """
        return iteration >= self.iterations or 0 < self.flops <= compute.flops


@dataclass(frozen=True)
class StepResult:
    """The report of one step to the loop; metrics and compute are the same on all ranks."""

    metrics: dict[str, float]
    """Values by the names of :mod:`megatron_pz.monitoring.metrics`."""
    compute: ComputeUsed
    """Compute that the step used, over all ranks."""
    samples: Sequence[Sample] | None = None
    """Rollouts to read, of which rank 0 keeps its own; None if the objective makes none."""


class StepNotDone(ExpectedFailure):
    """A step failed on all ranks before it changed any state, so that a checkpoint of the previous step is exact."""


class Objective(ABC):
    """The subject of a run: models, the data that they learn from, and the update of each step.

    :class:`megatron_pz.run.run.Run` calls the methods in this order: the constructor, :meth:`load_state_dict` if the
    run resumes, :meth:`start`, :meth:`step` for each iteration, :meth:`finish` after the last one, :meth:`close`. All
    methods are collectives over all ranks.
    """

    is_stopping: Callable[[], bool] = staticmethod(lambda: False)
    """Returns whether a signal has asked this rank to stop; the loop sets it."""
    read_binary: Callable[[Collection[str]], Mapping[str, bytes]] = staticmethod(lambda names: {})
    """Reads :meth:`binary_state` of all ranks from the checkpoint that the run resumes from; the loop sets it."""
    starts = "everything"
    """Name of the components that :meth:`start` starts, for the log line that reports them ready."""

    @property
    @abstractmethod
    def models(self) -> dict[str, ModelState]:
        """Return the models and optimizers of a checkpoint by name; a single model has an empty name."""

    @abstractmethod
    def step(self, iteration: int) -> StepResult:
        """Train one step; ``iteration`` counts from 1.

        Raises:
            StepNotDone: on all ranks; the state is that of the previous step.
        """

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Return the state for an exact resume besides :attr:`models`, as JSON values."""

    def binary_state(self) -> Mapping[str, bytes]:
        """Return this rank's part of the state that is unsuited to JSON, by names that no other rank uses."""
        return {}

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a saved state; ``state`` has at least the keys of :meth:`state_dict`."""

    def start(self, first_iteration: int) -> None:  # noqa: B027 -- most objectives need nothing
        """Start components that need the loaded weights, such as rollout engines."""

    def optimizer_on_device(self) -> AbstractContextManager[None]:
        """Return a context manager in which the optimizer's state is on the device, as a checkpoint expects."""
        return nullcontext()

    def finish(self) -> None:  # noqa: B027
        """Write the result of the run after the last step. Not called if a signal stopped the run."""

    def close(self) -> None:  # noqa: B027
        """Release the components that :meth:`start` started. The process groups still exist."""


MakeObjective = Callable[[RunConfig, Topology, Watchdog], Objective]
"""Builds an objective with its initial weights, once the process groups exist."""
