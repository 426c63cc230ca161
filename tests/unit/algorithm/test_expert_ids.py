"""Expert ids reach only the ranks that request them; stored separately, they are restored to their responses."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from megatron_pz.algorithm.expert_ids import fetch_ids, ids_of, reader_of_first_rank, stored_ids, without_ids
from megatron_pz.algorithm.pending_proposals import restored_responses, stored_response
from megatron_pz.rl.experience import Response, ScoredGroup
from megatron_pz.runtime.errors import BadInput
from tests.support.routed_experts import with_random_experts
from tests.support.scripted_run import ThreadTopology


def groups_of(ranks: int) -> list[ScoredGroup]:
    """Return seven groups of three responses with ids, sampled by the ranks in turn."""
    plain = [
        ScoredGroup(
            "predictor",
            (1, 2, number),
            tuple(Response(tuple(range(number, number + n)), (-0.5,) * n, f"{n}", False) for n in (1, 2, 5)),
            (0.0, 1.0, 0.0),
            (0.0, 1.0, 0.0),
            rank=number % ranks,
        )
        for number in range(7)
    ]
    return with_random_experts(plain, layers=3, experts=8, per_token=2, seed=0)


WANTED = {0: [0, 2, 4], 1: [5, 3, 1], 2: []}


def test_ids_go_to_the_ranks_that_pack_their_groups() -> None:
    everything = groups_of(3)

    def fetched(topology: ThreadTopology) -> list[ScoredGroup]:
        here = [group if group.rank == topology.rank else without_ids(group) for group in everything]
        return fetch_ids(here, WANTED[topology.rank], topology)

    with ThreadPoolExecutor(3) as pool:
        results = list(pool.map(fetched, ThreadTopology.of_threads(3)))
    for rank, groups in enumerate(results):
        for index, (group, whole) in enumerate(zip(groups, everything, strict=True)):
            has_ids = index in WANTED[rank] or whole.rank == rank
            assert group == (whole if has_ids else without_ids(whole)), (rank, index)


def test_each_rank_reads_from_the_first() -> None:
    stored = {"a": b"1", "b": b"22", "c": b"333"}
    names = [["c"], [], ["a", "b", "unknown"]]

    def read(topology: ThreadTopology) -> dict[str, bytes]:
        return dict(reader_of_first_rank(stored if topology.rank == 0 else {}, topology)(names[topology.rank]))

    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(read, ThreadTopology.of_threads(3))) == [{"c": b"333"}, {}, {"a": b"1", "b": b"22"}]


def test_stored_responses_get_their_own_ids_back() -> None:
    for group in groups_of(1):
        stored = [stored_response(response) for response in group.responses]
        assert tuple(restored_responses(stored, stored_ids(group.responses))) == group.responses
        plain = without_ids(group)
        assert ids_of(plain.responses) == [(b"", b"")] * 3
        assert tuple(restored_responses([*map(stored_response, plain.responses)], b"")) == plain.responses
        with pytest.raises(ValueError, match="0 bytes of expert ids are not the"):
            restored_responses(stored, b"")


def test_ids_in_json_are_refused_and_their_absence_is_not() -> None:
    """Earlier versions stored them in base64."""
    response = Response((1, 2), (-0.5, -0.25), "ab", False)
    old = {name: each for name, each in stored_response(response).items() if name != "expert_bytes"}
    assert restored_responses([old | {"prompt_experts": "", "experts": ""}], b"") == [response]
    with pytest.raises(BadInput, match=r"expert ids in its run_state\.json: resume it with the version that wrote it"):
        restored_responses([old | {"prompt_experts": "AAAA", "experts": "AAAA"}], b"")
