"""If several ranks call their engines together, the groups equal those of one rank, whichever rank samples them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from megatron_pz.algorithm.engine_calls import EngineCalls, SampledGroup, SampleKey
from megatron_pz.algorithm.role_sampler import EngineSampler
from megatron_pz.algorithm.work_shares import MeanLengths, Prompts, Work
from megatron_pz.rl.experience import Response, SampleRequest
from megatron_pz.rollout.requests import FollowUp

N = {"generator": 3, "predictor": 2}


class Engine:
    """Answers newest requests first; a sample depends on the prompt's seed and the sample's number."""

    def __init__(self) -> None:
        self.asked: list[SampleKey] = []

    def answer(
        self, requests: Sequence[SampleRequest], *, stop: Sequence[str], then: FollowUp
    ) -> dict[Hashable, list[Response]]:
        waiting, answers = list(requests), {}
        while waiting:
            request = waiting.pop()
            self.asked.append(request.key)
            answers[request.key] = [
                Response((request.seed, sample), (0.0, 0.0), "", False) for sample in request.samples
            ]
            waiting += then(request.key, answers)
        return answers


def requests_of(work: Work) -> list[SampleRequest]:
    singly = work.role == "generator"
    parts = [range(sample, sample + 1) for sample in work.samples] if singly else [work.samples]
    return [
        SampleRequest(SampleKey(work.role, work.item, part.start), (work.item,), 10 * work.item, part, 8)
        for part in parts
    ]


def predict_each(key: Hashable, answers: object) -> list[SampleRequest]:
    """Request two predictions of each mask, in the engine that has proposed it."""
    assert isinstance(key, SampleKey)
    item = (key.item, key.sample)
    return (
        [SampleRequest(SampleKey("predictor", item, 0), (1, *item), 7, range(2), 8)] if key.role == "generator" else []
    )


def on_ranks(
    world_size: int, ranks_of_engine: int, work: Callable[[EngineCalls], Any], make: type[Engine] = Engine
) -> list[Any]:
    """Return each rank's result, engine and calls."""
    meeting, said = threading.Barrier(world_size), [[] for _ in range(world_size)]
    results: list[Any] = [None] * world_size

    def rank(number: int) -> None:
        def gather(mine: list[Any]) -> list[list[Any]]:
            said[number] = mine
            meeting.wait(10)
            everything = list(said)
            meeting.wait(10)
            return everything

        def from_all_ranks(mine: list[Any]) -> list[Any]:
            return [item for part in gather(mine) for item in part]

        def all_to_all_object(values: list[Any]) -> list[Any]:
            return [sent[number] for sent in gather(values)]

        engine = make()
        topology = SimpleNamespace(rank=number, world_size=world_size, all_to_all_object=all_to_all_object)
        engines = dict.fromkeys(N, engine)
        sampler = EngineSampler(None, engines, {})
        calls = EngineCalls(engines, sampler, ranks_of_engine, topology, from_all_ranks, MeanLengths(), ())
        results[number] = (work(calls), engine, calls)

    threads = [threading.Thread(target=rank, args=(number,)) for number in range(world_size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    return results


def prompts(passages: int, masks: int = 0) -> list[Prompts]:
    return [Prompts("generator", range(passages), 3, 5.0), Prompts("predictor", range(100, 100 + masks), 2, 9.0)]


@pytest.mark.parametrize(("world_size", "ranks_of_engine"), [(1, 1), (2, 1), (4, 2), (5, 1), (12, 2)])
@pytest.mark.parametrize("masks", [0, 7])
def test_every_group_is_whole_and_on_one_rank(world_size: int, ranks_of_engine: int, masks: int) -> None:
    """With 5 engines and more for 4 passages, their samples come from several."""
    ranks = on_ranks(world_size, ranks_of_engine, lambda calls: calls.sample(prompts(4, masks), requests_of))
    groups = [group for mine, _, _ in ranks for group in mine.items()]
    assert sorted(name for name, _ in groups) == sorted(
        [("generator", index) for index in range(4)] + [("predictor", index) for index in range(100, 100 + masks)]
    )
    for (role, item), group in groups:
        assert group.prompt_ids == (item,)
        assert [response.token_ids for response in group.responses] == [(10 * item, k) for k in range(N[role])]
    asked = [tuple(engine.asked) for _, engine, _ in ranks]
    assert [asked[first : first + ranks_of_engine] for first in range(0, world_size, ranks_of_engine)] == [
        [asked[first]] * ranks_of_engine for first in range(0, world_size, ranks_of_engine)
    ], "ranks of one engine ask it the same"


@pytest.mark.parametrize("world_size", [1, 3, 6])
def test_what_follows_stays_in_the_engine_that_caused_it(world_size: int) -> None:
    ranks = on_ranks(world_size, 1, follow_each)
    names = sorted(name for mine, _, _ in ranks for name in mine)
    masks = [("predictor", (index, sample)) for index in range(4) for sample in range(3)]
    assert names == [("generator", index) for index in range(4)] + masks
    for _, engine, _ in ranks:
        by_role = {role: {key.item for key in engine.asked if key.role == role} for role in N}
        assert by_role["predictor"] == {(key.item, key.sample) for key in engine.asked if key.role == "generator"}


def test_all_ranks_know_all_parts_and_the_same_mean_lengths() -> None:
    ranks = on_ranks(4, 2, lambda calls: calls.sample(prompts(4, 7), requests_of))
    for _, _, calls in ranks:
        ((first, second),) = calls.parts
        assert first.responses + second.responses == {"generator": 12, "predictor": 14}
        assert first.tokens + second.tokens == {"generator": 24, "predictor": 28}
        assert 0.0 < first.nine_tenths <= first.seconds <= calls._sampler.seconds_generating
        assert calls.lengths.means == {"generator": 2.0, "predictor": 2.0}


def test_what_a_dead_engine_has_answered_is_not_counted() -> None:
    class Dying(Engine):
        def answer(self, requests: Sequence[SampleRequest], *, stop: Sequence[str], then: FollowUp) -> Any:
            super().answer(requests[:2], stop=stop, then=then)
            return super().answer(requests, stop=stop, then=then)

    plain, dying = (on_ranks(1, 1, follow_each, engine)[0] for engine in (Engine, Dying))
    assert plain[0] == dying[0]
    ((before,),), ((after,),) = plain[2].parts, dying[2].parts
    assert (before.tokens, before.responses) == (after.tokens, after.responses)


def follow_each(calls: EngineCalls) -> Any:
    return calls.sample(prompts(4)[:1], requests_of, predict_each)


def test_an_engine_without_work_has_spent_no_time() -> None:
    ((_, _, calls),) = on_ranks(1, 1, lambda calls: calls.sample(prompts(0), requests_of))
    ((part,),) = calls.parts
    assert (part.seconds, part.nine_tenths) == (0.0, 0.0)


def test_a_group_keeps_the_expert_ids_of_its_prompt_once() -> None:
    """Every request of a sample returns them, and a prompt has many bytes of ids."""
    samples = {n: Response((n,), (0.0,), "", False, prompt_experts=b"prompt", experts=b"own") for n in (2, 0, 1)}
    responses = SampledGroup((1, 2), samples).responses
    assert [response.token_ids for response in responses] == [(0,), (1,), (2,)]
    assert [response.prompt_experts for response in responses] == [b"prompt", b"", b""]
    assert all(response.experts == b"own" for response in responses)
