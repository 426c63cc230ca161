"""Keep proposals that were sampled in an earlier step (``--generator-ahead``) until a step learns from them."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from megatron_pz.algorithm.expert_ids import ReadIds, split_ids, stored_ids
from megatron_pz.algorithm.rollouts import Draw, Proposals, RolloutWorker
from megatron_pz.corpus.passages import PassageBlend
from megatron_pz.rl.experience import Response
from megatron_pz.runtime.errors import BadInput


@dataclass(frozen=True)
class PendingProposals:
    """A draw of passages with the masks that the generator proposed for it."""

    draw: Draw
    proposals: list[Proposals]
    """The proposals of this rank."""
    iteration: int
    """The step in which they were sampled, before its update."""

    def state_dict(self, worker: RolloutWorker) -> dict[str, Any]:
        """Return the proposals of all ranks as JSON values, and the draw as passage numbers. Collective.

        Expert ids are returned separately (:meth:`expert_ids`).
        """
        mine = {str(group.passage_index): list(map(stored_response, group.responses)) for group in self.proposals}
        return {
            "iteration": self.iteration,
            "rng_key": self.draw.rng_key,
            "passages": [passage.index for passage in self.draw.passages],
            "ranks": worker.from_all_ranks([mine]),
        }

    def expert_ids(self) -> dict[str, bytes]:
        """Return the expert ids of this rank's proposals, by the names under which :meth:`of_state` reads them."""
        return {_name(str(group.passage_index)): stored_ids(group.responses) for group in self.proposals}

    @classmethod
    def of_state(
        cls, state: dict[str, Any], worker: RolloutWorker, passages: PassageBlend, read: ReadIds
    ) -> PendingProposals:
        """Restore this rank's proposals, or an equal share of all if the number of ranks has changed."""
        draw = Draw([passages[index] for index in state["passages"]], state["rng_key"])
        ranks, topology = state["ranks"], worker.topology
        if len(ranks) == topology.world_size:
            mine = ranks[topology.rank]
        else:
            groups = {index: responses for of_rank in ranks for index, responses in of_rank.items()}
            mine = {index: groups[index] for index in sorted(groups, key=int)[topology.rank :: topology.world_size]}
        ids = read([*map(_name, mine)])
        proposals = [
            worker.read_again(draw, int(index), restored_responses(responses, ids.get(_name(index), b"")))
            for index, responses in mine.items()
        ]
        return cls(draw, proposals, state["iteration"])


def _name(passage: str) -> str:
    return f"pending {passage}"


def stored_response(response: Response) -> dict[str, Any]:
    """Return a response as exact JSON values, with the lengths of its expert ids in bytes instead of the ids."""
    return {
        "token_ids": _packed(response.token_ids, "<i4"),
        "log_probs": _packed(response.log_probs, "<f8"),
        "text": response.text,
        "truncated": response.truncated,
        "expert_bytes": [len(response.prompt_experts), len(response.experts)],
    }


def restored_responses(stored: Sequence[dict[str, Any]], ids: bytes) -> list[Response]:
    """Restore a group from the results of :func:`stored_response` and :func:`~.expert_ids.stored_ids`.

    Raises:
        BadInput: an earlier version has stored the expert ids in JSON.
    """
    if any(each.get("experts") for each in stored):
        raise BadInput("the checkpoint has expert ids in its run_state.json: resume it with the version that wrote it")
    parts = split_ids(ids, [each.get("expert_bytes", (0, 0)) for each in stored])  # earlier versions had no lengths
    return [
        Response(
            tuple(_unpacked(each["token_ids"], "<i4")),
            tuple(_unpacked(each["log_probs"], "<f8")),
            each["text"],
            each["truncated"],
            *of_response,
        )
        for each, of_response in zip(stored, parts, strict=True)
    ]


def _packed(numbers: Sequence[float], dtype: str) -> str:
    """Encode numbers exactly as compact text; decimal text would take three times the space."""
    return base64.b64encode(np.asarray(numbers, dtype).tobytes()).decode("ascii")


def _unpacked(text: str, dtype: str) -> list[Any]:
    return np.frombuffer(base64.b64decode(text), dtype).tolist()
