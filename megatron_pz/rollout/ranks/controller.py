"""Control the rollout ranks of a job from the trainer's rank 0: commands, answers, and restarts after a failure."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from functools import partial
from multiprocessing.connection import wait
from typing import Any

import torch.distributed as dist

from megatron_pz.rollout.fault_tolerance import TooManyEngineFailures
from megatron_pz.rollout.ranks.host_weights import Bucket, HostWeights
from megatron_pz.rollout.ranks.rendezvous import Channel, RendezvousServer
from megatron_pz.rollout.weight_sync import WeightStream
from megatron_pz.runtime.errors import one_line

logger = logging.getLogger(__name__)

Send = Callable[[Channel], None]
"""Writes a command to one rollout rank."""
Limited = Callable[[str, str, int], AbstractContextManager[None]]
"""A block that the watchdog ends after a multiple of a setting's minutes: (phase, name of the setting, factor)."""

WEIGHTS, EXPERIENCE, GENERATE, CLOSE = "weights", "experience", "generate", "close"
"""Commands; the first element of what is sent. All but the last are answered."""


class RolloutController:
    """All rollout ranks. One command runs at a time; the trainer may work between its start and its end.

    When a rank dies, its connection breaks. All ranks are then restarted, because they share a process group. They
    receive their previous weights and the current command again, and give the same answer.
    """

    def __init__(
        self, store: dist.Store, ranks: int, first_rank: int, max_restarts: int, limited: Limited, policies: int = 1
    ) -> None:
        """Wait for the engines of all rollout ranks.

        Args:
            store: the store of the job.
            ranks: number of rollout ranks.
            first_rank: global rank of the first rollout rank, for messages.
            max_restarts: maximum number of restarts.
            limited: bounds the waits of this class. Engine calls are limited by the ranks that make them.
            policies: number of engines that each rank starts, one after the other.
        """
        self.ranks, self._first_rank, self._max_restarts, self._limited = ranks, first_rank, max_restarts, limited
        self._policies, self.restarts = policies, 0
        self._weights: dict[str, HostWeights] = {}
        self._loads: dict[str, Send] = {}
        """Function of each policy that resends the weights which its engines have."""
        self._command: Send | None = None
        self._lost: str | None = None
        self._server = RendezvousServer(store, ranks)
        self._channels = self._begin_round()

    def _begin_round(self) -> list[Channel]:
        # A rank whose engine takes too long ends the run itself; this limit is for a rank that never connects.
        with self._limited("the start of the rollout ranks", "sync_timeout_minutes", self._policies + 1):
            return self._server.begin_round()

    def load(self, policy: str, stream: WeightStream, request: Any) -> list[Any]:
        """Send a policy's weights to its engines bucket by bucket while they load; return every rank's answer.

        The stream is always read to its end, because other ranks of the trainer wait in its collectives.

        Args:
            request: sent to the rollout ranks, which answer it once they have the weights.
        """
        weights = self._weights.setdefault(policy, HostWeights())

        def begin(channel: Channel) -> None:
            channel.connection.send((WEIGHTS, policy, weights.path if channel.local else None, request))

        def hand_over(bucket: Bucket, channel: Channel) -> None:
            weights.send(bucket, channel.connection, local=channel.local)

        def end(channel: Channel) -> None:
            channel.connection.send(None)

        def again(channel: Channel) -> None:
            begin(channel)
            for bucket in weights.buckets:
                hand_over(bucket, channel)
            end(channel)

        with self._limited("the weight sync", "sync_timeout_minutes", 1):
            self._each(begin)
            for bucket in weights.write(stream):
                self._each(partial(hand_over, bucket))
            self._each(end)
        self._command = again
        answers = self.finish()  # outside the limit, because this may restart the ranks, which have their own limits
        self._loads[policy] = again
        return answers

    def ask(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Send one command to each rollout rank and return the answers in the order of ranks."""
        self.start(commands)
        return self.finish()

    def start(self, commands: Sequence[tuple[Any, ...]]) -> None:
        """Send one command to each rollout rank; :meth:`finish` waits for the answers."""
        assert self._command is None, "a command is under way"
        self._command = lambda channel: channel.connection.send(commands[channel.rank])
        self._each(self._command)

    def finish(self) -> list[Any]:
        """Wait for every rank's answer to the current command.

        Raises:
            TooManyEngineFailures: rollout ranks have died too often.
        """
        command, self._command = self._command, None
        assert command is not None, "no command is under way"
        while (answers := self._answers()) is None:
            self._start_again()
            for load in self._loads.values():
                self._each(load)
                self._answers()
            self._each(command)
        return answers

    def _each(self, send: Send) -> None:
        """Write to every rank, or do nothing if one is lost."""
        for channel in self._channels:
            if self._lost is not None:
                return
            try:
                send(channel)
            except (OSError, EOFError) as error:
                self._lose(channel, error)

    def _answers(self) -> list[Any] | None:
        """Return every rank's answer in the order of ranks, or None if one is lost."""
        answers: dict[int, Any] = {}
        waiting = {channel.connection: channel for channel in self._channels}
        while waiting and self._lost is None:
            for ready in wait(list(waiting)):
                channel = next(each for each in waiting.values() if each.connection is ready)
                try:
                    answers[channel.rank] = channel.connection.recv()
                    del waiting[channel.connection]
                except (OSError, EOFError) as error:
                    self._lose(channel, error)
        return None if self._lost is not None else [answers[rank] for rank in range(self.ranks)]

    def _lose(self, channel: Channel, error: Exception) -> None:
        self._lost = f"rank {self._first_rank + channel.rank} has ended ({one_line(error)})"

    def _start_again(self) -> None:
        """Begin another round. Live ranks exit when their connections close, and reconnect as new processes."""
        if self.restarts >= self._max_restarts:
            raise TooManyEngineFailures(
                f"{self._lost} after {self.restarts} restarts of the rollout ranks: no more are allowed "
                f"(--max-engine-restarts {self._max_restarts}); resume from the last checkpoint"
            )
        self.restarts += 1
        logger.warning("%s: the rollout ranks start again", self._lost)
        for channel in self._channels:
            channel.connection.close()
        self._lost = None
        self._channels = self._begin_round()

    def close(self) -> None:
        """End the rollout ranks and free the weights."""
        for channel in self._channels:
            with suppress(OSError):  # the rank has died since its last answer
                channel.connection.send((CLOSE,))
            channel.connection.close()
        for weights in self._weights.values():
            weights.close()
        self._server.close()
