"""Serialize the rollouts of a step as JSON, for checkpoints and for the transfer from rollout ranks to the trainer.

Only passage numbers and responses are stored. Prompts, masks and rewards are recomputed from them. Expert ids are
stored separately, as bytes under the names of their groups.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from megatron_pz.algorithm.engine_calls import EngineCall
from megatron_pz.algorithm.expert_ids import stored_ids
from megatron_pz.algorithm.pending_proposals import restored_responses, stored_response
from megatron_pz.algorithm.rollouts import Predictions, Proposals
from megatron_pz.rl.experience import Response

StoredRound = dict[str, Any]
"""One round of rollouts: ``strategy``, ``rng_key``, ``passages``, ``staleness``; ``proposals`` and ``predictions``, the
responses by the number of the passage and by the key of the mask."""
StoredExperience = dict[str, Any]
"""``rounds``; ``calls`` of the engines; ``drafts``, counts of the first rank; ``iteration``, the step during which the
engines sampled, before its update; in transfers from the rollout ranks also ``expert_ids``."""
PARTS = ("proposals", "predictions")


def stored_groups(proposals: Sequence[Proposals], predictions: Sequence[Predictions]) -> StoredRound:
    """Return one rank's responses as JSON values."""
    return {
        "proposals": {str(group.passage_index): [*map(stored_response, group.responses)] for group in proposals},
        "predictions": {_name(group.mask.key): [*map(stored_response, group.responses)] for group in predictions},
    }


def expert_ids(number: int, proposals: Sequence[Proposals], predictions: Sequence[Predictions]) -> dict[str, bytes]:
    """Return the expert ids of one rank's responses in round ``number``, by name."""
    of_proposals = {_id_name(number, "proposals", (each.passage_index,)): each.responses for each in proposals}
    of_predictions = {_id_name(number, "predictions", each.mask.key): each.responses for each in predictions}
    return {name: stored_ids(responses) for name, responses in (of_proposals | of_predictions).items()}


def names_of_ids(rounds: Sequence[StoredRound], rank: int, ranks: int) -> list[str]:
    """Return the names of the expert ids that belong to the :func:`share` of a rank."""
    return [
        _id_name(number, part, key)
        for number, whole in enumerate(rounds)
        for part in PARTS
        for key in _keys(whole[part], rank, ranks)
    ]


def _id_name(number: int, part: str, key: tuple[int, ...]) -> str:
    return f"ready {number} {part} {_name(key)}"


def merged(shares: Sequence[StoredExperience]) -> StoredExperience:
    """Merge the shares of all rollout ranks, which differ only in their responses and expert ids."""
    rounds = [dict(each) for each in shares[0]["rounds"]]
    for number, whole in enumerate(rounds):
        for part in PARTS:
            whole[part] = {name: each for share in shares for name, each in share["rounds"][number][part].items()}
    ids = {name: each for share in shares for name, each in share["expert_ids"].items()}
    return shares[0] | {"rounds": rounds, "expert_ids": ids}


def share(
    stored: StoredRound, number: int, part: str, ids: Mapping[str, bytes], rank: int, ranks: int
) -> dict[tuple[int, ...], list[Response]]:
    """Return every ``ranks``-th group of a part of round ``number``, in the order of their keys.

    ``ids`` holds at least the names of :func:`names_of_ids`, unless the responses have no expert ids.
    """
    return {
        key: restored_responses(stored[part][_name(key)], ids.get(_id_name(number, part, key), b""))
        for key in _keys(stored[part], rank, ranks)
    }


def _keys(names: Iterable[str], rank: int, ranks: int) -> list[tuple[int, ...]]:
    return sorted(tuple(map(int, name.split("."))) for name in names)[rank::ranks]


def _name(key: tuple[int, ...]) -> str:
    return ".".join(map(str, key))


def stored_calls(calls: Sequence[Sequence[EngineCall]]) -> list[list[dict[str, Any]]]:
    """Return the figures of the engines' calls as JSON values."""
    return [
        [
            {
                "seconds": part.seconds,
                "nine_tenths": part.nine_tenths,
                "tokens": dict(part.tokens),
                "responses": dict(part.responses),
            }
            for part in call
        ]
        for call in calls
    ]


def restored_calls(calls: Sequence[Sequence[dict[str, Any]]]) -> list[list[EngineCall]]:
    """Undo :func:`stored_calls`."""
    return [
        [EngineCall(p["seconds"], p["nine_tenths"], Counter(p["tokens"]), Counter(p["responses"])) for p in call]
        for call in calls
    ]
