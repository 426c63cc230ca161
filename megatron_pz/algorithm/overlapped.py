"""Run PretrainZero with engines on rollout ranks, which sample the next step while the trainer learns from this one."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from megatron_pz.algorithm.expert_ids import reader_of_first_rank
from megatron_pz.algorithm.learner import Learner
from megatron_pz.algorithm.pretrain_zero import PretrainZero, RolloutBatch
from megatron_pz.algorithm.remote_engine import RemoteEngine
from megatron_pz.algorithm.rollouts import RolloutWorker
from megatron_pz.algorithm.stored_experience import StoredExperience, merged
from megatron_pz.config.schema import RunConfig
from megatron_pz.corpus.passages import PassageBlend
from megatron_pz.corpus.sampler import PassageSampler
from megatron_pz.monitoring.timers import Timers
from megatron_pz.rl.experience import Role, ScoredGroup
from megatron_pz.rollout.ranks.controller import EXPERIENCE, RolloutController
from megatron_pz.rollout.speculation import DraftCounts


class OverlappedPretrainZero(PretrainZero):
    """The trainer's half of the algorithm. The rollout ranks run the other half (:class:`ExperienceMaker`).

    At the start of step t, trainer and engines hold the weights after t - 1 updates, and the trainer has the experience
    of step t. The trainer requests the experience of step t + 1, learns from that of step t, waits for the answer and
    sends the new weights. Samples are therefore at most one update old. The checkpoint that follows holds the answer.
    The first step requests its own experience beforehand.

    The rollout ranks keep no state between requests: a request carries the position in the corpus and the mean lengths,
    and the answer returns both updated. They can therefore be restarted at any time.
    """

    def __init__(
        self,
        config: RunConfig,
        worker: RolloutWorker,
        learners: list[Learner],
        passages: PassageBlend,
        sampler: PassageSampler,
        engines: Mapping[Role, RemoteEngine],
        controller: RolloutController | None,
    ) -> None:
        """Keep the parts of the run.

        Args:
            worker: reads and scores the samples; it has no engines.
            engines: receive the weights.
            controller: the rollout ranks; None on all ranks but the first.
        """
        super().__init__(config, worker, learners, passages, sampler, engines)
        self._controller = controller
        self._drafts = DraftCounts()
        self._wanted = 0
        """The step whose experience was requested last."""
        self._asked: int | None = None
        """The step before whose update the experience was requested; None without an open request."""

    def gather_experience(self, iteration: int) -> tuple[list[RolloutBatch], list[ScoredGroup]]:
        """Return the experience that was sampled during the previous step, and request that of the next step."""
        if self.ready is None:
            self._ask(iteration, iteration)
            self._receive()
        assert self.ready is not None
        self._drafts = DraftCounts(*self.ready["drafts"])
        gathered = self.experience_of(self.ready, iteration)
        if iteration < self.config.training.train_iters:
            self._ask(iteration + 1, iteration)
        return gathered

    def take_draft_counts(self) -> DraftCounts:
        """Return the draft counts of the first rollout rank for the experience that was taken last."""
        counts, self._drafts = self._drafts, DraftCounts()
        return counts

    def after_update(self, timers: Timers) -> dict[str, float]:
        """Wait for the experience that was requested before the update."""
        if self._asked is None:
            return {}
        with timers("rollout"):
            start = time.perf_counter()
            seconds_sampling = self._receive()
            waited = time.perf_counter() - start
        shorter = min(seconds_sampling, timers["update"])
        together = min(max(0.0, seconds_sampling - waited), shorter)
        return {"ahead/overlap": together / shorter} if shorter else {}

    def _ask(self, wanted: int, iteration: int) -> None:
        """Request the samples of step ``wanted`` from the rollout ranks during ``iteration``. Collective."""
        state = {"sampler": self.sampler.state_dict(), "rollouts": self.state_dict(), "expert_ids": self._pending_ids()}
        if self._controller is not None:
            self._controller.start([(EXPERIENCE, wanted, state)] * self._controller.ranks)
        self._wanted, self._asked = wanted, iteration

    def _pending_ids(self) -> dict[str, bytes]:
        """Gather the expert ids of pending proposals on rank 0. Collective."""
        if self.pending is None:
            return {}
        nothing: list[dict[str, bytes]] = [{}] * (self.worker.topology.world_size - 1)
        received = self.worker.topology.all_to_all_object([self.expert_ids(), *nothing])
        return {name: ids for part in received for name, ids in part.items()}

    def _receive(self) -> float:
        """Wait for the requested experience, and return the seconds that the rollout ranks took. Collective."""
        ids: dict[str, bytes] = {}

        def finish() -> StoredExperience:
            assert self._controller is not None
            whole = merged(self._controller.finish())
            ids.update(whole.pop("expert_ids"))
            return whole

        whole = self.worker.topology.broadcast_when_done(finish, f"experience of {self._wanted}")
        self.sampler.load_state_dict(whole["sampler"])
        read = reader_of_first_rank(ids, self.worker.topology)
        self.load_state_dict(whole["rollouts"], read)
        self.ready = {"iteration": self._asked} | {name: whole[name] for name in ("rounds", "calls", "drafts")}
        self.ready_ids = read(self.names_of_share(self.ready))
        self._asked = None
        seconds: float = whole["seconds"]
        return seconds


class ExperienceMaker:
    """The rollout ranks' half: samples and scores whole steps, without a trainer."""

    def __init__(self, config: RunConfig, worker: RolloutWorker, passages: PassageBlend) -> None:
        self.sampler = PassageSampler(passages.sizes, config.training.seed, passages.weights)
        self.algorithm = PretrainZero(config, worker, [], passages, self.sampler)

    def make(self, iteration: int, state: dict[str, Any]) -> dict[str, Any]:
        """Sample the experience of a step from the state that the trainer has; return this rank's share and the state.

        Collective over the rollout ranks.
        """
        start = time.perf_counter()
        self.sampler.load_state_dict(state["sampler"])
        pending_ids: dict[str, bytes] = state["expert_ids"]
        self.algorithm.load_state_dict(state["rollouts"], lambda _: pending_ids)
        self.algorithm.take_draft_counts()  # discard the counts of evaluations since the last step
        rollouts, _ = self.algorithm.gather_experience(iteration)
        share = self.algorithm.stored_share(rollouts)
        share["expert_ids"] |= self.algorithm.expert_ids()
        after = {"sampler": self.sampler.state_dict(), "rollouts": self.algorithm.state_dict()}
        return share | after | {"seconds": time.perf_counter() - start}
