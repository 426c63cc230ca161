"""Trainer and rollout engines share a card: who works has its memory, the other has put its part aside.

A step of the loop, and what lies on the card:

==================  ==============  =================  ======================  ==========================
while               engine weights  engine's KV cache  weights of the trainer  optimizer, gradients
==================  ==============  =================  ======================  ==========================
the engines sample  there           there              there                   put aside (``offload``)
the trainer works   put aside       put aside          there                   there
weights travel      there           put aside          there                   put aside (``offload``)
==================  ==============  =================  ======================  ==========================

This is the order of the lowest peak: the KV cache, by far the largest, comes back last, when the trainer is done. On a
CPU engines do not sleep and an offloaded optimizer stays where it is; the order of calls is the same. No GPU has run
it yet.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Literal, Protocol


class Engine(Protocol):
    """What is asked of a rollout engine; to wake what does not sleep is no mistake."""

    def sleep(self) -> None: ...

    def wake(self, *parts: Literal["weights", "kv_cache"]) -> None: ...


class Trainer(Protocol):
    """What is asked of a policy."""

    def offload(self) -> None: ...

    def onload(self) -> None: ...


class Colocation:
    """Takes turns. All ranks enter the blocks together.

    A block that raises leaves everything as it is then: the run ends, and the error must not be hidden by another one.
    """

    def __init__(self, trainers: Iterable[Trainer], engines: Iterable[Engine], *, sleep: bool, offload: bool) -> None:
        """The state before the first step: engines awake, optimizers put aside if ``offload``.

        Args:
            trainers: this rank's policies.
            engines: this rank's engines; one that plays two roles may be named twice.
            sleep: engines sleep while the trainer works (``sleep_during_update``).
            offload: optimizer and gradients are aside while it does not (``rl_offload_optimizer_during_inference``).
        """
        self._trainers = tuple(trainers) if offload else ()
        self._engines = tuple(dict.fromkeys(engines)) if sleep else ()

    @contextmanager
    def trainer_works(self) -> Iterator[None]:
        """For an update. The engines are still asleep afterwards: :meth:`weights_travel` wakes them."""
        for engine in self._engines:
            engine.sleep()
        for trainer in self._trainers:
            trainer.onload()
        yield
        for trainer in self._trainers:
            trainer.offload()

    @contextmanager
    def optimizer_needed(self) -> Iterator[None]:
        """For a checkpoint between two steps. Where no optimizer has been put aside nothing moves."""
        if not self._trainers:
            yield
            return
        with self.trainer_works():
            yield
        with self.weights_travel():
            pass

    @contextmanager
    def weights_travel(self) -> Iterator[None]:
        """For the weight sync, if there is anything new; afterwards the engines can sample."""
        for engine in self._engines:
            engine.wake("weights")
        yield
        for engine in self._engines:
            engine.wake("kv_cache")
