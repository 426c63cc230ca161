"""Keep the expert ids of routing replay on the ranks that need them, and out of JSON.

A token needs one byte for each expert that it is routed to in each layer: 384 bytes in Qwen3-30B-A3B, against 12 for
its token id and its log-probability. Responses are therefore exchanged and stored without expert ids. The expert ids
of a scored group go from the rank that sampled it to the ranks that pack it. The expert ids of stored responses are
kept as separate bytes under the name of the group.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from io import BytesIO
from typing import Any, ClassVar, Protocol, TypeVar

from megatron_pz.rl.experience import Response, ScoredGroup
from megatron_pz.trainer.topology import Topology

ReadIds = Callable[[Collection[str]], Mapping[str, bytes]]
"""Returns the stored ids of named groups; leaves out those that have none."""


class Sampled(Protocol):
    """A dataclass that holds a group of responses."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def responses(self) -> tuple[Response, ...]: ...


Group = TypeVar("Group", bound=Sampled)


def without_ids(group: Group) -> Group:
    """Return a group whose responses have no ids."""
    return with_ids(group, [(b"", b"")] * len(group.responses))


def with_ids(group: Group, ids: Sequence[tuple[bytes, bytes]]) -> Group:
    """Return a group whose responses have these ids, as :func:`ids_of` returns them."""
    responses = [
        dataclasses.replace(response, prompt_experts=of_prompt, experts=own)
        for response, (of_prompt, own) in zip(group.responses, ids, strict=True)
    ]
    return dataclasses.replace(group, responses=tuple(responses))


def ids_of(responses: Sequence[Response]) -> list[tuple[bytes, bytes]]:
    """Return, for each response, the expert ids of its prompt and those of its own tokens."""
    return [(response.prompt_experts, response.experts) for response in responses]


def stored_ids(responses: Sequence[Response]) -> bytes:
    """Return the expert ids of a group, concatenated."""
    return b"".join(part for pair in ids_of(responses) for part in pair)


def split_ids(stored: bytes, lengths: Sequence[tuple[int, int]]) -> list[tuple[bytes, bytes]]:
    """Undo :func:`stored_ids`, given the lengths of all parts in bytes."""
    if len(stored) != sum(map(sum, lengths)):
        raise ValueError(f"{len(stored)} bytes of expert ids are not the {sum(map(sum, lengths))} of their responses")
    ids = BytesIO(stored)
    return [(ids.read(of_prompt), ids.read(own)) for of_prompt, own in lengths]


def fetch_ids(groups: Sequence[ScoredGroup], wanted: Sequence[int], topology: Topology) -> list[ScoredGroup]:
    """Fetch the expert ids of some groups to this rank. Collective.

    Args:
        groups: the same on all ranks, with ids on the rank that each names.
        wanted: indices of the groups whose ids this rank needs.
    """
    elsewhere = [index for index in wanted if groups[index].rank != topology.rank]
    asked = [[index for index in elsewhere if groups[index].rank == rank] for rank in range(topology.world_size)]
    to_answer = topology.all_to_all_object(asked)
    answers = topology.all_to_all_object([[ids_of(groups[index].responses) for index in part] for part in to_answer])
    complete = list(groups)
    for indices, ids in zip(asked, answers, strict=True):
        for index, of_group in zip(indices, ids, strict=True):
            complete[index] = with_ids(groups[index], of_group)
    return complete


def reader_of_first_rank(ids: Mapping[str, bytes], topology: Topology) -> ReadIds:
    """Return a reader of the expert ids on rank 0. Its calls are collectives; other ranks do not use ``ids``."""

    def read(names: Collection[str]) -> Mapping[str, bytes]:
        nothing: list[Any] = [[]] * (topology.world_size - 1)
        asked = topology.all_to_all_object([list(names), *nothing])
        return topology.all_to_all_object([{name: ids[name] for name in part if name in ids} for part in asked])[0]

    return read
