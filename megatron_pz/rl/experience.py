"""Define the frozen batches that pass between the rollout engine, the roles and the trainer.

Letters at the end of a tensor's name are its axes: S the tokens of a packed sequence, R its response tokens, E the
bytes of a token's expert ids.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field, fields
from typing import Literal

import torch

Role = Literal["generator", "predictor", "solver"]
"""The two roles of the game, and the one that answers questions (:mod:`megatron_pz.run.rlvr`)."""


@dataclass(frozen=True)
class Response:
    """One sampled response, as the rollout engine returned it."""

    token_ids: tuple[int, ...]
    log_probs: tuple[float, ...]
    """Natural log-probability of each token under the engine's weights, at temperature 1."""
    text: str
    truncated: bool
    """True when the length limit ended it."""
    prompt_experts: bytes = b""
    """Ids of the experts to which the engine routed each token of the prompt, by token and layer (zeros in layers
    without experts), one byte each, or two (little-endian) above 256 experts. Empty if not requested, or if another
    response of the group has them."""
    experts: bytes = b""
    """The same for the response's tokens except the last, which the engine has not computed."""


@dataclass(frozen=True)
class Decoding:
    """Choice of tokens in an evaluation. Training samples from the model's own distribution instead."""

    temperature: float = 0.0
    """0: greedy."""
    top_p: float = 1.0
    """Nucleus sampling: only the most likely tokens with this total probability are sampled."""


@dataclass(frozen=True)
class SampleRequest:
    """A request to a rollout engine for samples of one prompt."""

    key: Hashable
    """Name of the request, unique within a call."""
    prompt_ids: tuple[int, ...]
    seed: int
    """The prompt's seed. Sample k draws the same noise in any request."""
    samples: range
    """Numbers of the samples, in steps of 1."""
    max_tokens: int
    """A response that reaches it is truncated."""


@dataclass(frozen=True)
class ScoredGroup:
    """One prompt with its n sampled responses, their rewards and their group-relative advantages."""

    role: Role
    prompt_ids: tuple[int, ...]
    responses: tuple[Response, ...]
    rewards: tuple[float, ...]
    advantages: tuple[float, ...]
    staleness: int = 0
    """Age of the weights that sampled the responses, in steps."""
    rank: int = field(default=0, compare=False)
    """Rank that has the expert ids of the responses."""


@dataclass(frozen=True)
class MicroBatch:
    """One packed sequence (shared-prompt packing): whole groups, each as one prompt followed by its responses.

    A prompt token attends to the prompt's earlier tokens; a response token attends to its prompt and to the earlier
    tokens of its own response. Positions restart after the prompt for every response, so that each response has exactly
    the context that it would have alone. Equal responses of a group share one copy; several entries of R refer to it.
    """

    tokens_S: torch.Tensor
    """int64"""
    positions_S: torch.Tensor
    """int64, rotary positions"""
    segments_2S: torch.Tensor
    """int32. ``[0]``: position of the group in the packed sequence. ``[1]``: 0 for the prompt, k for the group's k-th
    distinct response. Padding at the end is a group of its own."""
    logit_index_R: torch.Tensor
    """int64: index in S of the token whose hidden state predicts the response token"""
    labels_R: torch.Tensor
    """int64: the response tokens"""
    rollout_log_probs_R: torch.Tensor
    """float32"""
    advantages_R: torch.Tensor
    """float32, the response's advantage on each of its tokens"""
    loss_weights_R: torch.Tensor
    """float32: weight of the token in the loss of the whole step (all ranks), by the chosen aggregation"""
    response_index_R: torch.Tensor
    """int64: index of the response within this packed sequence"""
    group_index_R: torch.Tensor
    """int64: index of the response's group in the step's list of groups; -1 if there is no group"""
    role_R: torch.Tensor
    """int64: index in :data:`megatron_pz.rl.statistics.ROLES` of the role whose response the token belongs to"""
    is_stale_R: torch.Tensor
    """bool: the response was sampled by the weights of an earlier step"""
    experts_SE: torch.Tensor
    """uint8: the expert ids of each token, as in :class:`Response`; E is 0 if no group has any"""
    has_experts_S: torch.Tensor
    """bool: the token has expert ids, as all have but padding and the last token of each response"""

    def to(self, device: torch.device | str) -> MicroBatch:
        """Copy the batch to ``device``."""
        return MicroBatch(**{entry.name: getattr(self, entry.name).to(device) for entry in fields(self)})


@dataclass(frozen=True)
class OldAndReferenceLogProbs:
    """Log-probabilities that the loss compares the current ones with, constant over a step's updates."""

    old_log_probs_R: torch.Tensor | None = None
    """float32, under the trainer's weights of the rollout; None: the weights have not changed since."""
    reference_log_probs_R: torch.Tensor | None = None
    """float32, under the reference policy of the KL penalty; None: there is no penalty."""
