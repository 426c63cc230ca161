"""Replace a rollout engine that fails, on all ranks together, and repeat its prompts.

vLLM's engine cannot be repaired from outside: a failed request may leave others in its queues, and a failed weight
update leaves its layers in an intermediate state. Therefore a new engine is started in its place. Every request carries
its seed, and all engines sample the same tokens from the same weights and seeds (``rollout.engine``), so that the
step's result stays the same.

Starting an engine creates process groups, and a sharded trainer gathers its weights for it; both need all ranks. After
every call the ranks therefore exchange the health of their engines in one small collective. If an engine has failed,
all ranks start new engines, and ranks with unanswered prompts ask again. Ranks must make the same calls in the same
order.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Hashable, Sequence
from types import TracebackType
from typing import TypeVar

from megatron_pz.rl.experience import Decoding, Response, SampleRequest
from megatron_pz.rollout.engine import VllmEngine
from megatron_pz.rollout.lifecycle import Part
from megatron_pz.rollout.requests import FollowUp, no_follow_up
from megatron_pz.rollout.speculation import DraftCounts
from megatron_pz.rollout.weight_sync import WeightStream, load_weights
from megatron_pz.runtime.errors import BadInput, ExpectedFailure, one_line

logger = logging.getLogger(__name__)

Answered = TypeVar("Answered")

Exchange = Callable[[str | None], list[str | None]]
"""Gathers a value of every rank, in the order of ranks, on every rank: ``Topology.all_gather_object``."""


class TooManyEngineFailures(ExpectedFailure):
    """Engines failed more often than ``max_engine_restarts`` allows."""


class RestartingEngine:
    """This rank's engine of one policy. Methods are collectives of all ranks, unless stated otherwise."""

    def __init__(
        self,
        start: Callable[[], VllmEngine],
        weights: Callable[[], WeightStream],
        *,
        exchange: Exchange,
        max_restarts: int,
        check: Callable[[VllmEngine], None],
    ) -> None:
        """Start the first engine and give it the trainer's weights.

        Args:
            start: makes an engine, which may lack weights; called on all ranks together.
            weights: the trainer's current weights, as a stream that can be read once; read on all ranks together.
            exchange: shares failures between the ranks.
            max_restarts: total number of restarts after a failure, over all ranks.
            check: examines every new engine after it has received the trainer's weights.
        """
        self._start, self._weights, self._exchange, self._check = start, weights, exchange, check
        self.max_restarts = max_restarts
        self.restarts = 0
        self.engine = start()
        self._checked = False
        self.sync()

    def sync(self) -> None:
        """Load the trainer's current weights into the engines, and check new ones. Raise TooManyEngineFailures."""
        while True:
            if self._replaced_after(self._failure(lambda: load_weights(self.engine, self._weights()))):
                continue
            # The check follows the exchange, because ranks that share an engine generate together.
            if self._checked or not self._replaced_after(self._failure(lambda: self._check(self.engine))):
                self._checked = True
                return

    @property
    def context(self) -> int:
        """Return :attr:`VllmEngine.context`."""
        return self.engine.context

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        n: int,
        *,
        seeds: Sequence[int],
        max_tokens: int,
        stop: Sequence[str],
        decoding: Decoding | None = None,
    ) -> list[list[Response]]:
        """Call :meth:`VllmEngine.generate` for this rank's prompts; there may be none.

        Raises BadInput as that method does, and TooManyEngineFailures.
        """
        return self._asked(
            lambda: self.engine.generate(prompts, n, seeds=seeds, max_tokens=max_tokens, stop=stop, decoding=decoding)
        )

    def answer(
        self, requests: Sequence[SampleRequest], *, stop: Sequence[str], then: FollowUp = no_follow_up
    ) -> dict[Hashable, list[Response]]:
        """Call :meth:`VllmEngine.answer` for this engine's requests; there may be none.

        An engine that replaces a failed one answers all requests again. Raises BadInput and TooManyEngineFailures.
        """
        return self._asked(lambda: self.engine.answer(requests, stop=stop, then=then))

    def take_draft_counts(self) -> DraftCounts:
        """Call :meth:`VllmEngine.take_draft_counts`, without counts of failed engines. Not a collective."""
        return self.engine.take_draft_counts()

    def _asked(self, question: Callable[[], Answered]) -> Answered:
        """Return the engine's answer, or that of its replacement if the engine fails."""
        answers: list[Answered] = []
        while self._replaced_after(None if answers else self._failure(lambda: answers.append(question()))):
            self.sync()
        return answers[0]

    def sleep(self) -> None:
        """Call :meth:`VllmEngine.sleep`."""
        self.engine.sleep()

    def wake(self, *parts: Part) -> None:
        """Call :meth:`VllmEngine.wake`. A replacement engine is already awake."""
        self.engine.wake(*parts)

    def close(self) -> None:
        """End the engine, before the process groups that it joined. Not a collective."""
        self.engine.close()

    def __enter__(self) -> RestartingEngine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _failure(self, work: Callable[[], None]) -> str | None:
        """Return the error that broke the engine, or None. Raise errors that leave the engine usable."""
        try:
            work()
        except Exception as error:
            if self.engine.healthy() or isinstance(error, BadInput):  # another engine would also refuse it
                raise
            logger.warning("this rank's rollout engine failed: %s", one_line(error))
            return f"{type(error).__name__}: {one_line(error)}"
        return None

    def _replaced_after(self, failure: str | None) -> bool:
        """Replace all engines if one failed on any rank, and return whether one did. New engines need :meth:`sync`."""
        failures = self._exchange(failure)
        failed = [(rank, reason) for rank, reason in enumerate(failures) if reason is not None]
        if not failed:
            return False
        if self.restarts >= self.max_restarts:
            rank, reason = failed[0]
            raise TooManyEngineFailures(
                f"the rollout engine of rank {rank} failed ({reason}) after {self.restarts} restarts: no more are "
                f"allowed (--max-engine-restarts {self.max_restarts}); resume from the last checkpoint"
            )
        self.restarts += 1
        with contextlib.suppress(Exception):  # the engine is broken, so errors at its end do not matter
            self.engine.close()
        self.engine = self._start()
        self._checked = False
        return True
