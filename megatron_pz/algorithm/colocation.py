"""Share GPU memory between the trainer and the rollout engines: the idle side offloads its part.

GPU memory during a step:

==================  ==============  =================  ======================  ==========================
while               engine weights  engine's KV cache  trainer's weights       optimizer, gradients
==================  ==============  =================  ======================  ==========================
the engines sample  resident        resident           resident                offloaded (option)
the trainer works   offloaded       offloaded          resident                resident
weights travel      resident        offloaded          resident                offloaded (option)
==================  ==============  =================  ======================  ==========================

This order has the lowest peak: the KV cache, by far the largest part, returns last, after the trainer has finished. On
a CPU, engines do not sleep and an offloaded optimizer stays in place; the order of calls is the same. This module has
not been run on a GPU yet.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Literal, Protocol


class SleepingEngine(Protocol):
    """The part of a rollout engine that manages its memory. Calling ``wake`` on an awake engine is a no-op."""

    def sleep(self) -> None: ...

    def wake(self, *parts: Literal["weights", "kv_cache"]) -> None: ...


class OffloadingTrainer(Protocol):
    """The part of a policy that manages its memory."""

    def offload(self) -> None: ...

    def onload(self) -> None: ...


class Colocation:
    """Switches GPU memory between trainer and engines. All ranks enter the blocks together.

    A block that raises leaves the state as it is: the run ends, and a second error must not hide the first.
    """

    def __init__(
        self, trainers: Iterable[OffloadingTrainer], engines: Iterable[SleepingEngine], *, sleep: bool, offload: bool
    ) -> None:
        """Describe the state before the first step: engines awake, optimizers offloaded if ``offload``.

        Args:
            trainers: this rank's policies.
            engines: this rank's engines; one that plays two roles may be named twice.
            sleep: engines sleep while the trainer works (``sleep_during_update``).
            offload: optimizer and gradients are offloaded during rollouts (``rl_offload_optimizer_during_inference``).
        """
        self._trainers = tuple(trainers) if offload else ()
        self._engines = tuple(dict.fromkeys(engines)) if sleep else ()

    @contextmanager
    def trainer_works(self) -> Iterator[None]:
        """Put the engines to sleep and load the optimizer for an update.

        The engines stay asleep until :meth:`weights_travel`.
        """
        for engine in self._engines:
            engine.sleep()
        for trainer in self._trainers:
            trainer.onload()
        yield
        for trainer in self._trainers:
            trainer.offload()

    @contextmanager
    def optimizer_needed(self) -> Iterator[None]:
        """Load the optimizer for a checkpoint between two steps. This is a no-op if no optimizer is offloaded."""
        if not self._trainers:
            yield
            return
        with self.trainer_works():
            yield
        with self.weights_travel():
            pass

    @contextmanager
    def weights_travel(self) -> Iterator[None]:
        """Wake the engines' weights for the sync; afterwards the engines can sample."""
        for engine in self._engines:
            engine.wake("weights")
        yield
        for engine in self._engines:
            engine.wake("kv_cache")
