"""Define what a run trains and for how long: the interface between the loop and the objectives."""

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
        """Return the schedule that the flags ask for."""
        return cls(training.train_iters, training.seed, training.save_interval, training.train_flops)

    def is_over(self, iteration: int, compute: ComputeUsed) -> bool:
        """Return whether the run ends after this iteration, with this compute used so far.

        Both are parts of a checkpoint and the same on all ranks, so that a resumed run ends where a run in one piece
        does.
        """
        return iteration >= self.iterations or 0 < self.flops <= compute.flops


@dataclass(frozen=True)
class StepResult:
    """Report of one step to the loop; metrics and compute are the same on all ranks."""

    metrics: dict[str, float]
    """Values by the names of :mod:`megatron_pz.monitoring.metrics`."""
    compute: ComputeUsed
    """Compute that the step used, over all ranks."""
    samples: Sequence[Sample] | None = None
    """Rollouts to read, of which rank 0 keeps its own; None where the objective makes none."""


class StepNotDone(ExpectedFailure):
    """A step failed on all ranks before it changed anything, so that a checkpoint can be made of the step before."""


class Objective(ABC):
    """Subject of a run: models, the data that they learn from, and the way in which a step updates them.

    :class:`megatron_pz.run.run.Run` calls the methods in this order: the constructor, :meth:`load_state_dict` where the
    run resumes, :meth:`start`, :meth:`step` for each iteration, :meth:`finish` after the last one, :meth:`close`. All
    methods are collectives over all ranks.
    """

    is_stopping: Callable[[], bool] = staticmethod(lambda: False)
    """Tells whether a signal has asked this rank to stop; the loop sets it."""
    read_binary: Callable[[Collection[str]], Mapping[str, bytes]] = staticmethod(lambda names: {})
    """Reads :meth:`binary_state` of all ranks from the checkpoint that the run goes on from; the loop sets it."""
    starts = "everything"
    """Name of the parts that :meth:`start` starts, for the line that says they are ready."""

    @property
    @abstractmethod
    def models(self) -> dict[str, ModelState]:
        """The models and optimizers that a checkpoint holds, by name; the name is empty where there is only one."""

    @abstractmethod
    def step(self, iteration: int) -> StepResult:
        """Train one step; ``iteration`` counts from 1.

        Raises:
            StepNotDone: on all ranks; the state is that of the step before.
        """

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Return what :meth:`load_state_dict` needs for an exact resume beside :attr:`models`, as JSON can hold it."""

    def binary_state(self) -> Mapping[str, bytes]:
        """Return this rank's part of the state that JSON would hold badly, by names that no other rank uses."""
        return {}

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state; ``state`` has at least the keys of :meth:`state_dict`."""

    def start(self, first_iteration: int) -> None:  # noqa: B027 -- most objectives need nothing
        """Start what needs the loaded weights, such as rollout engines."""

    def optimizer_on_device(self) -> AbstractContextManager[None]:
        """Return a block in which the optimizer's state is where a checkpoint expects it."""
        return nullcontext()

    def finish(self) -> None:  # noqa: B027
        """Write what the run is for, after the last step. Not called when a signal stopped the run."""

    def close(self) -> None:  # noqa: B027
        """Release what :meth:`start` started. The process groups still exist."""


MakeObjective = Callable[[RunConfig, Topology, Watchdog], Objective]
"""Builds an objective with its initial weights, once the process groups exist."""
