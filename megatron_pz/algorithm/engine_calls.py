"""Call all engines at once, each with its share of the prompts, and assemble the groups of responses."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from megatron_pz.algorithm.role_sampler import EngineSampler
from megatron_pz.algorithm.work_shares import MeanLengths, Prompts, Work, share_out
from megatron_pz.rl.experience import Response, Role, SampleRequest
from megatron_pz.rl.statistics import GAME_ROLES
from megatron_pz.rollout.fault_tolerance import RestartingEngine
from megatron_pz.rollout.requests import Answers, FollowUp, no_follow_up
from megatron_pz.trainer.topology import Topology


class SampleKey(NamedTuple):
    """Name of a request."""

    role: Role
    item: Any
    """Index of the passage in its draw, or key of the mask."""
    sample: int
    """The first sample that the request asks for."""


Name = tuple[Role, Any]
"""Role and item of a :class:`SampleKey`: one prompt."""


@dataclass
class SampledGroup:
    """A prompt with its responses by the number of the sample."""

    prompt_ids: tuple[int, ...]
    samples: dict[int, Response] = field(default_factory=dict)

    @property
    def responses(self) -> tuple[Response, ...]:
        """Return the responses ordered by sample number. Only the first keeps the expert ids of the prompt."""
        first, *others = (response for _, response in sorted(self.samples.items()))
        return (first, *(replace(response, prompt_experts=b"") for response in others))


@dataclass(frozen=True)
class EngineCall:
    """One engine's part in a call of all engines."""

    seconds: float
    """Seconds until the engine's last request ended."""
    nine_tenths: float
    """Seconds until nine tenths of the engine's requests had ended."""
    tokens: Mapping[Role, int]
    """Sampled tokens."""
    responses: Mapping[Role, int]


class EngineCalls:
    """Shares prompts out to the engines, which groups of neighbouring ranks may hold together.

    Sampling is a collective of all ranks.
    """

    def __init__(
        self,
        engines: Mapping[Role, RestartingEngine],
        sampler: EngineSampler,
        ranks_of_engine: int,
        topology: Topology,
        from_all_ranks: Callable[[list[Any]], list[Any]],
        lengths: MeanLengths,
        stop: Sequence[str],
    ) -> None:
        """Find this rank's engine.

        Args:
            engines: this rank's engine of each role; the same one twice if one policy plays both.
            sampler: adds up the seconds that the engines take.
            ranks_of_engine: ranks that hold an engine together.
            from_all_ranks: gathers every rank's items, in the order of ranks.
            lengths: running means of the lengths, which every call updates.
            stop: strings that end a response.
        """
        self._engines, self._sampler, self._topology = engines, sampler, topology
        self._from_all_ranks = from_all_ranks
        self._own, self._place = divmod(topology.rank, ranks_of_engine)
        self._ranks_of_engine, self._stop = ranks_of_engine, stop
        self.count = topology.world_size // ranks_of_engine
        """Number of engines of a role."""
        self.lengths = lengths
        self.parts: list[list[EngineCall]] = []
        """Part of every engine in each call since the list was cleared."""

    def sample(
        self,
        prompts: Sequence[Prompts],
        requests: Callable[[Work], Sequence[SampleRequest]],
        then: FollowUp = no_follow_up,
    ) -> dict[Name, SampledGroup]:
        """Sample all prompts and the requests that ``then`` adds, and return this rank's groups, sorted.

        Args:
            prompts: the prompts of all ranks; the same on every rank.
            requests: makes the requests of this engine's work, each named by a :class:`SampleKey`.
            then: adds requests for whole groups of another role. The engine that caused them serves them.

        Returns:
            Each group on exactly one rank. Groups of a prompt that engines shared are exchanged.
        """
        shares = share_out(prompts, self.count)
        asked = [request for work in shares[self._own] for request in requests(work)]
        parts: dict[Name, SampledGroup] = {}
        for engine in dict.fromkeys(self._engines[each.role] for each in prompts):
            own = [request for request in asked if self._engines[key_of(request).role] is engine]
            self._ask(engine, own, then, parts)
        sizes = {each.role: each.samples for each in prompts}
        whole = {name: part for name, part in parts.items() if len(part.samples) >= sizes.get(name[0], 0)}
        mine = {name: whole[name] for name in sorted(whole)[self._place :: self._ranks_of_engine]}
        if any(len(work.samples) < sizes[work.role] for share in shares for work in share):
            mine |= self._joined({name: part for name, part in parts.items() if name not in whole})
        return dict(sorted(mine.items()))

    def _joined(self, parts: Mapping[Name, SampledGroup]) -> dict[Name, SampledGroup]:
        """Merge the parts of groups that several engines have sampled. Each group goes to one rank."""
        own, ranks = parts if self._place == 0 else {}, self._topology.world_size
        names = sorted(set(self._from_all_ranks(list(own))))
        sent = [{name: own[name] for name in names[rank::ranks] if name in own} for rank in range(ranks)]
        groups: dict[Name, SampledGroup] = {}
        for received in self._topology.all_to_all_object(sent):
            for name, part in received.items():
                groups.setdefault(name, SampledGroup(part.prompt_ids)).samples.update(part.samples)
        return groups

    def _ask(
        self,
        engine: RestartingEngine,
        requests: Sequence[SampleRequest],
        then: FollowUp,
        parts: dict[Name, SampledGroup],
    ) -> None:
        """Sample from this rank's engine while the other ranks use theirs.

        Add the samples to ``parts`` and record the times.
        """
        start, ends = time.perf_counter(), [0.0]
        asked = list(requests)

        def ended(key: Hashable, answers: Answers) -> Sequence[SampleRequest]:
            if len(answers) == 1:  # the first answer, also of an engine that has replaced a failed one
                del ends[1:], asked[len(requests) :]
            ends.append(time.perf_counter() - start)
            more = then(key, answers)
            asked.extend(more)
            return more

        answers = engine.answer(requests, stop=self._stop, then=ended)
        tokens: Counter[Role] = Counter()
        responses: Counter[Role] = Counter()
        for request in asked:
            key, sampled = key_of(request), answers[request.key]
            group = parts.setdefault((key.role, key.item), SampledGroup(request.prompt_ids))
            group.samples.update(zip(request.samples, sampled, strict=True))
            tokens[key.role] += sum(len(response.token_ids) for response in sampled)
            responses[key.role] += len(sampled)
        own = EngineCall(ends[-1], ends[-(-9 * (len(ends) - 1) // 10)], tokens, responses)
        everywhere = self._from_all_ranks([own] if self._place == 0 else [])
        self.parts.append(everywhere)
        for role in GAME_ROLES:
            self.lengths.update(
                role, sum(part.tokens[role] for part in everywhere), sum(part.responses[role] for part in everywhere)
            )
        self._sampler.seconds_generating += time.perf_counter() - start


def key_of(request: SampleRequest) -> SampleKey:
    """Return the key of one of this module's requests."""
    assert isinstance(request.key, SampleKey)
    return request.key
