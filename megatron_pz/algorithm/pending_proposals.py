"""Keep proposals that an earlier step's call has sampled (``--generator-ahead``) until a step learns from them."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from megatron_pz.algorithm.rollouts import Draw, Proposals, RolloutWorker
from megatron_pz.corpus.passages import PassageBlend
from megatron_pz.rl.experience import Response


@dataclass(frozen=True)
class PendingProposals:
    """A draw of passages with the masks that the generator proposed for it."""

    draw: Draw
    proposals: list[Proposals]
    """This rank's."""
    iteration: int
    """The step in which they were sampled, before its update."""

    def state_dict(self, worker: RolloutWorker) -> dict[str, Any]:
        """Return the proposals of all ranks as JSON holds them, and the draw as numbers of passages. Collective."""
        mine = {str(group.passage_index): list(map(stored_response, group.responses)) for group in self.proposals}
        return {
            "iteration": self.iteration,
            "rng_key": self.draw.rng_key,
            "passages": [passage.index for passage in self.draw.passages],
            "ranks": worker.from_all_ranks([mine]),
        }

    @classmethod
    def of_state(cls, state: dict[str, Any], worker: RolloutWorker, passages: PassageBlend) -> PendingProposals:
        """Restore this rank's proposals, or where the number of ranks has changed an equal share of all."""
        draw = Draw([passages[index] for index in state["passages"]], state["rng_key"])
        ranks, topology = state["ranks"], worker.topology
        if len(ranks) == topology.world_size:
            mine = ranks[topology.rank]
        else:
            groups = {index: responses for of_rank in ranks for index, responses in of_rank.items()}
            mine = {index: groups[index] for index in sorted(groups, key=int)[topology.rank :: topology.world_size]}
        proposals = [
            worker.read_again(draw, int(index), list(map(restored_response, responses)))
            for index, responses in mine.items()
        ]
        return cls(draw, proposals, state["iteration"])


def stored_response(response: Response) -> dict[str, Any]:
    """Return a response as JSON holds it, exactly."""
    return {
        "token_ids": _packed(response.token_ids, "<i4"),
        "log_probs": _packed(response.log_probs, "<f8"),
        "text": response.text,
        "truncated": response.truncated,
        "prompt_experts": base64.b64encode(response.prompt_experts).decode("ascii"),
        "experts": base64.b64encode(response.experts).decode("ascii"),
    }


def restored_response(stored: dict[str, Any]) -> Response:
    """Undo :func:`stored_response`."""
    return Response(
        tuple(_unpacked(stored["token_ids"], "<i4")),
        tuple(_unpacked(stored["log_probs"], "<f8")),
        stored["text"],
        stored["truncated"],
        *(base64.b64decode(stored.get(name, "")) for name in ("prompt_experts", "experts")),  # older ones lack them
    )


def _packed(numbers: Sequence[float], dtype: str) -> str:
    """Encode numbers exactly; a thousand tokens as decimal text would take three times the space."""
    return base64.b64encode(np.asarray(numbers, dtype).tobytes()).decode("ascii")


def _unpacked(text: str, dtype: str) -> list[Any]:
    return np.frombuffer(base64.b64decode(text), dtype).tolist()
