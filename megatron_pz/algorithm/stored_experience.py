"""Hold the rollouts of a step as JSON, for a checkpoint and for the way from the rollout ranks to the trainer.

Only what was sampled is stored: passages by their numbers, and responses. Prompts, masks and rewards follow from them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from megatron_pz.algorithm.engine_calls import EngineCall
from megatron_pz.algorithm.pending_proposals import restored_response, stored_response
from megatron_pz.algorithm.rollouts import MaskKey, Predictions, Proposals

StoredRound = dict[str, Any]
"""One round of rollouts: ``strategy``, ``rng_key``, ``passages``, ``staleness``; ``proposals`` and ``predictions``, the
responses by the number of the passage and by the key of the mask."""
StoredExperience = dict[str, Any]
"""``rounds``; ``calls`` of the engines; ``drafts``, counts of the first rank; ``iteration``, the step before whose
update the engines sampled."""


def stored_groups(proposals: Sequence[Proposals], predictions: Sequence[Predictions]) -> StoredRound:
    """Return one rank's responses."""
    return {
        "proposals": {str(group.passage_index): [*map(stored_response, group.responses)] for group in proposals},
        "predictions": {_name(group.mask.key): [*map(stored_response, group.responses)] for group in predictions},
    }


def merged(shares: Sequence[StoredExperience]) -> StoredExperience:
    """Put the shares of all rollout ranks together, which differ in their responses only."""
    rounds = [dict(each) for each in shares[0]["rounds"]]
    for number, whole in enumerate(rounds):
        for part in ("proposals", "predictions"):
            whole[part] = {name: each for share in shares for name, each in share["rounds"][number][part].items()}
    return shares[0] | {"rounds": rounds}


def share(names: Mapping[str, Any], rank: int, ranks: int) -> dict[tuple[int, ...], Any]:
    """Return every ``ranks``-th group, in the order of their keys."""
    keys = {tuple(map(int, name.split("."))): group for name, group in names.items()}
    return {key: [*map(restored_response, keys[key])] for key in sorted(keys)[rank::ranks]}


def _name(key: MaskKey) -> str:
    return ".".join(map(str, key))


def stored_calls(calls: Sequence[Sequence[EngineCall]]) -> list[list[dict[str, Any]]]:
    """Return the figures of the engines' calls."""
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
