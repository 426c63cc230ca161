"""Replay the experts that the rollout engine chose (rollout routing replay, R3, arXiv 2510.11370).

Engine and trainer round differently. Occasionally the trainer's router therefore prefers other experts than the
engine's, and the log-probability of a token jumps. With replay the trainer routes each token to the experts that the
engine chose. Their weights still come from the trainer's own router logits, and the gradient reaches the router through
them. A load-balancing loss still counts the experts that the trainer's router prefers.

Megatron-Core's routers have a hook for this, ``router_replay``. Megatron-Core's own class for the hook keeps all
routers of the process in one list, those of policies and reference alike, and needs ids for every token;
:class:`RouterReplay` does neither.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from megatron.core.models.common.language_module.language_module import LanguageModule
from megatron.core.transformer.moe.router import TopKRouter
from megatron.core.utils import unwrap_model
from torch import Tensor

from megatron_pz.model.context_parallel import own_tokens
from megatron_pz.rl.experience import MicroBatch
from megatron_pz.runtime.errors import BadInput


@dataclass(frozen=True)
class ReplayedTokens:
    """The s tokens that this rank's routers see, with the expert ids of all layers (see :class:`MicroBatch`)."""

    experts_sE: Tensor
    has_experts_s: Tensor

    def of_layer(self, layer: int, layers: int, per_token: int) -> Tensor:
        """Return the ids of one of the model's ``layers``: int64 [s, per_token]."""
        width = self.experts_sE.size(1) // layers
        dtype = {per_token: torch.uint8, 2 * per_token: torch.uint16}.get(width)
        if dtype is None or width * layers != self.experts_sE.size(1):
            raise RuntimeError(
                f"{self.experts_sE.size(1)} bytes of expert ids a token are not those of {layers} layers with "
                f"{per_token} experts a token"
            )
        return self.experts_sE[:, layer * width : (layer + 1) * width].contiguous().view(dtype).long()


class RouterReplay:
    """Chooses the experts in the router of one layer; it replaces Megatron-Core's class of the same name.

    With activation recomputation, a layer calls this twice for each packed sequence. The first call runs without
    gradients within a forward pass that has them. The second call runs in the backward pass, in the order of the first
    calls.
    """

    def __init__(self, layer: int, layers: int) -> None:
        """Prepare for one layer, counted from 0, of a model with ``layers`` layers."""
        self._layer, self._layers = layer, layers
        self._is_forward = self._has_gradients = False
        self._tokens: ReplayedTokens | None = None
        self._to_recompute: deque[ReplayedTokens | None] = deque()
        self.reset()

    def reset(self) -> None:
        """Clear the counts and the pending recomputations of a failed pass."""
        self._to_recompute.clear()
        self.replayed: Tensor | int = 0
        """Tokens that were replayed in forward passes with gradients."""
        self.differing: Tensor | int = 0
        """Replayed tokens for which this router would have chosen other experts."""

    def begin(self, tokens: ReplayedTokens | None) -> None:
        """Start a forward pass that replays these tokens; with None, the router chooses."""
        self._is_forward, self._has_gradients, self._tokens = True, torch.is_grad_enabled(), tokens

    def end(self) -> None:
        """End the forward pass."""
        self._is_forward, self._tokens = False, None

    def get_replay_topk(
        self,
        scores: Tensor,
        topk: int,
        num_groups: int | None,
        group_topk: int | None,
        default_compute_topk: Callable[..., tuple[Tensor, Tensor]],
    ) -> tuple[Tensor, Tensor]:
        """Return (scores of the chosen experts, their int64 ids), both [s, topk]. The signature is Megatron-Core's."""
        own_scores_sk, own_ids_sk = default_compute_topk(scores, topk, num_groups, group_topk)
        tokens = self._tokens_of_this_pass()
        if tokens is None:
            return own_scores_sk, own_ids_sk
        given_sk = tokens.of_layer(self._layer, self._layers, topk)
        ids_sk = torch.where(tokens.has_experts_s[:, None], given_sk, own_ids_sk)
        if self._is_forward and self._has_gradients:
            differs_s = (ids_sk.sort(-1).values != own_ids_sk.sort(-1).values).any(-1)
            self.replayed = self.replayed + tokens.has_experts_s.sum()
            self.differing = self.differing + differs_s.sum()
        return scores.gather(1, ids_sk), ids_sk

    def _tokens_of_this_pass(self) -> ReplayedTokens | None:
        if not self._is_forward:
            return self._to_recompute.popleft() if self._to_recompute else None
        if self._has_gradients and not torch.is_grad_enabled():
            self._to_recompute.append(self._tokens)
        return self._tokens


def attach(model: LanguageModule) -> None:
    """Enable replay in the routers of a model chunk. They choose by themselves for sequences without expert ids.

    Raises:
        BadInput: this release of Megatron-Core has no hook in its routers.
    """
    model.router_replays = []
    for router in model.modules():
        if isinstance(router, TopKRouter):
            if not hasattr(router, "router_replay"):
                raise BadInput("this megatron-core has no routers that can replay; megatron-core 0.16.1 has them")
            router.router_replay = RouterReplay(router.layer_number - 1, model.config.num_layers)
            model.router_replays.append(router.router_replay)


@contextmanager
def replaying(chunk: LanguageModule, batch: MicroBatch) -> Iterator[None]:
    """Replay a packed sequence in the chunk's forward pass within the block and in its later recomputation."""
    tokens = None
    if chunk.router_replays and batch.experts_SE.size(1):
        tokens = ReplayedTokens(_own(batch.experts_SE, chunk), _own(batch.has_experts_S, chunk))
    for replay in chunk.router_replays:
        replay.begin(tokens)
    try:
        yield
    finally:
        for replay in chunk.router_replays:
            replay.end()


def reset(chunks: Iterable[torch.nn.Module]) -> None:
    """Reset :func:`counts`; call this before an update."""
    for replay in _replays(chunks):
        replay.reset()


def counts(chunks: Iterable[torch.nn.Module], device: torch.device) -> Tensor:
    """Count the (token, layer) pairs that this rank's forward passes with gradients have replayed.

    Returns:
        int64 [2]: the number of pairs, and the number of those for which the trainer's router would have chosen other
        experts. Each pair is on one rank, because tensor parallel ranks of a mixture divide the tokens (sequence
        parallelism).
    """
    total = torch.zeros(2, dtype=torch.int64, device=device)
    for replay in _replays(chunks):
        total += torch.stack([torch.as_tensor(count, device=device) for count in (replay.replayed, replay.differing)])
    return total


def _replays(chunks: Iterable[torch.nn.Module]) -> list[RouterReplay]:
    return [replay for chunk in chunks for replay in unwrap_model(chunk).router_replays]


def _own(rows_S: Tensor, chunk: LanguageModule) -> Tensor:
    """Select the rows of the tokens that this rank's routers see under context and sequence parallelism."""
    rows_s = own_tokens(rows_S, chunk.pg_collection.cp)
    if not chunk.config.sequence_parallel:
        return rows_s
    return rows_s.chunk(chunk.pg_collection.tp.size())[chunk.pg_collection.tp.rank()]
