"""Build the policy's network, a Megatron-Core language model of a Hugging Face architecture.

Megatron-Core 0.19 deprecates its GPTModel in favour of HybridModel, which is available since 0.18 and is used if
available. Both have the same embedding, TransformerBlock and output layer, compute the same values and read each
other's checkpoints (``tests/unit/model/test_gpt.py``). No other module names the two classes; they use
``LanguageModule``.
"""

from __future__ import annotations

import copy
from importlib.util import find_spec
from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.models.common.language_module.language_module import LanguageModule
from megatron.core.models.gpt import GPTModel
from megatron.core.tensor_parallel import (
    ColumnParallelLinear,
    RowParallelLinear,
    VocabParallelEmbedding,
    set_tensor_model_parallel_attributes,
)
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_block import (
    TransformerBlock,
    TransformerBlockSubmodules,
    get_num_layers_to_build,
)

from megatron_pz.hf.architecture import Architecture
from megatron_pz.model import packed_forward
from megatron_pz.model.attention import SharedPromptAttention
from megatron_pz.model.layers import block_spec
from megatron_pz.model.transformer_config import PolicyTransformerConfig

HAS_HYBRID_MODEL = find_spec("megatron.core.models.hybrid") is not None


class WholeLayers(TransformerBlock):
    """The decoder of a HybridModel: a TransformerBlock, whose layers combine attention and feed-forward.

    HybridModel's own HybridStack splits each into two layers. This would double the layer numbers of checkpoints, of
    recomputation and of ``no_rope_freq``, and its final norm is Transformer Engine's, which cannot be constructed on a
    CPU.
    """

    def __init__(
        self,
        _: PolicyTransformerConfig,
        submodules: TransformerBlockSubmodules,
        *,
        of: PolicyTransformerConfig,
        layer_type_list: list[str],
        pp_layer_offset: int,
        dtype: torch.dtype,
        name: str = "decoder",
        **of_block: Any,
    ) -> None:
        """Build the block from HybridModel's arguments; layers and offset follow from the configuration ``of``."""
        super().__init__(of, submodules, **of_block)


def build_chunks(arch: Architecture, config: PolicyTransformerConfig) -> list[LanguageModule]:
    """Build this rank's model on its device: one chunk, or the stage's chunks of the interleaved schedule."""
    stages = config.virtual_pipeline_model_parallel_size
    chunks = [build_model(arch, config, vp_stage=stage) for stage in (range(stages) if stages else (None,))]
    if torch.cuda.is_available():  # Megatron-Core leaves the routers of experts on the CPU
        chunks = [chunk.cuda(torch.cuda.current_device()) for chunk in chunks]
    return chunks


def build_model(
    arch: Architecture,
    config: PolicyTransformerConfig,
    *,
    pre_process: bool | None = None,
    post_process: bool | None = None,
    vp_stage: int | None = None,
) -> LanguageModule:
    """Build this rank's part of the model with uninitialised weights, for ``hf_mapping.load_hf_weights`` to fill.

    ``pre_process`` (has the embedding) and ``post_process`` (has the output layer) follow from the rank's pipeline
    stage if they are None. Parameters have the dtype in ``config``.

    ``model(input_ids_BS, position_ids_BS, attention_mask=None)`` returns logits [B, S, V / tensor parallel size] under
    plain causal attention. Packed sequences go through :mod:`megatron_pz.model.packed_forward`.
    """
    stage = {} if vp_stage is None else {"ignore_virtual": False, "vp_stage": vp_stage}
    if pre_process is None:
        pre_process = parallel_state.is_pipeline_first_stage(**stage)
    if post_process is None:
        post_process = parallel_state.is_pipeline_last_stage(**stage)
    make = _hybrid_model if HAS_HYBRID_MODEL else GPTModel
    model = make(
        config,
        block_spec(config, SharedPromptAttention, vp_stage),
        vocab_size=config.padded_vocab_size,
        max_sequence_length=arch.max_position_embeddings,
        pre_process=pre_process,
        post_process=post_process,
        parallel_output=True,
        share_embeddings_and_output_weights=arch.tied_embeddings,
        position_embedding_type="rope",
        rotary_base=arch.rotary_base,
        vp_stage=vp_stage,
    )
    packed_forward.attach(model, arch.vocab_size)
    _mark_tensor_parallel_weights(model)
    return model


def _hybrid_model(
    config: PolicyTransformerConfig, spec: TransformerBlockSubmodules, *, vp_stage: int | None, **settings: Any
) -> LanguageModule:
    """Build a HybridModel around the layers of GPTModel, with GPTModel's arguments."""
    from megatron.core.models.hybrid.hybrid_model import HybridModel  # not in 0.16 and 0.17

    # The pattern gives the number of layers of a stage, and HybridModel refuses a configuration that repeats it.
    by_pattern = copy.copy(config)
    by_pattern.num_layers_in_first_pipeline_stage = by_pattern.num_layers_in_last_pipeline_stage = None
    model = HybridModel(
        by_pattern,
        ModuleSpec(WholeLayers, params={"of": config, "vp_stage": vp_stage}, submodules=spec),
        hybrid_layer_pattern=_layer_pattern(config),
        vp_stage=vp_stage,
        **settings,
    )
    model.config = config
    return model


def _layer_pattern(config: PolicyTransformerConfig) -> str:
    """Return HybridModel's layer pattern: a star for each layer, a bar after each pipeline stage's chunk."""
    chunks, stages = config.virtual_pipeline_model_parallel_size, config.pipeline_model_parallel_size
    counts = (
        get_num_layers_to_build(config, vp_stage=chunk, pp_rank=stage)
        for chunk in (range(chunks) if chunks else (None,))
        for stage in range(stages)
    )
    return "|".join("*" * count for count in counts)


def _mark_tensor_parallel_weights(model: LanguageModule) -> None:
    """Mark sharded weights, so that Megatron-Core's gradient norm counts every rank's shard and not only rank 0's.

    Megatron-Core sets the attribute when it initialises a weight (Transformer Engine always sets it). The weights here
    are left uninitialised because they come from a checkpoint.
    """
    for module in model.modules():
        if isinstance(module, (ColumnParallelLinear, RowParallelLinear, VocabParallelEmbedding)):
            weight, axis = module.weight, int(isinstance(module, RowParallelLinear))
            if weight is not None and not hasattr(weight, "tensor_model_parallel"):
                set_tensor_model_parallel_attributes(weight, True, axis, 1)
