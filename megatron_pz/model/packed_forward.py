"""Run a packed micro-batch through a Megatron-Core language model."""

from __future__ import annotations

import torch
from megatron.core.models.common.language_module.language_module import LanguageModule
from megatron.core.utils import unwrap_model
from torch import Tensor

from megatron_pz.model import routing_replay
from megatron_pz.model.context_parallel import own_tokens
from megatron_pz.model.positions import use_position_ids
from megatron_pz.model.response_head import ResponseHead, ResponseTargets
from megatron_pz.rl.experience import MicroBatch


def attach(model: LanguageModule, vocab_size: int) -> None:
    """Prepare a model chunk for :func:`packed_forward`; plain forward calls are unaffected.

    The model's layers must have been built with :class:`~megatron_pz.model.attention.SharedPromptAttention`.

    Args:
        model: the bare chunk of this pipeline stage, before it is wrapped for mixed precision or data parallelism.
        vocab_size: size of the true vocabulary. Megatron-Core pads it for the ranks; a softmax over the padding would
            give other probabilities than transformers and vLLM.
    """
    use_position_ids(model)
    routing_replay.attach(model)
    if model.post_process:
        model.output_layer.__class__ = ResponseHead
        model.output_layer.true_vocab_size = vocab_size
        model.output_layer.cp_group = model.pg_collection.cp


def packed_forward(model: torch.nn.Module, batch: MicroBatch) -> Tensor:
    """Run the forward pass of one micro-batch in this pipeline stage.

    Args:
        model: an attached chunk, bare or wrapped (``Float16Module``, ``DistributedDataParallel``).
        batch: on the model's device. All context parallel ranks pass the same whole packed sequence, which this
            function divides among them.

    Returns:
        In the last stage, float32 [R, 2]: natural log-probability and entropy (nats, without gradient) of every
        response token, the same on all ranks. In other stages, the hidden states [s, 1, hidden] of its s tokens.

    Raises:
        BadInput: the sequence's length is not divisible by twice the number of context parallel ranks.
    """
    chunk = unwrap_model(model)
    group = chunk.pg_collection.cp
    tokens_s, positions_s = (own_tokens(row_S, group) for row_S in (batch.tokens_S, batch.positions_S))
    inputs = (tokens_s[None], positions_s[None], batch.segments_2S[None, None])
    with routing_replay.replaying(chunk, batch):
        if not chunk.post_process:
            return model(*inputs)
        chunk.output_layer.targets = ResponseTargets(batch.logit_index_R, batch.labels_R)
        try:
            return model(*inputs)[0]
        finally:
            chunk.output_layer.targets = None
