"""Count the operations that an update needs, without recomputation, padding and materialised logits."""

from __future__ import annotations

from collections.abc import Sequence

from megatron_pz.hf.architecture import Architecture
from megatron_pz.rl.experience import ScoredGroup


def update_operations(arch: Architecture, groups: Sequence[ScoredGroup]) -> float:
    """Count multiplications and additions in the matrix products of a forward and backward pass over packed groups.

    Linear layers take 2 operations per weight and token forward, 4 backward. In attention, a pair of attending tokens
    costs 2 d for its score and 2 d for its value in each head, and twice that backward. The output layer processes only
    the response tokens. The embedding is a lookup. Only dense models are supported.
    """
    queries, keys = arch.num_attention_heads * arch.kv_channels, arch.num_query_groups * arch.kv_channels
    attention_weights = arch.hidden_size * (queries + 2 * keys) + queries * arch.hidden_size
    layer_weights = attention_weights + 3 * arch.hidden_size * arch.ffn_hidden_size
    tokens = pairs = outputs = 0
    for group in groups:
        prompt = len(group.prompt_ids)
        different = {response.token_ids for response in group.responses}
        tokens += prompt + sum(map(len, different))
        pairs += prompt * (prompt + 1) // 2
        pairs += sum(len(ids) * prompt + len(ids) * (len(ids) + 1) // 2 for ids in different)
        outputs += sum(len(response.token_ids) for response in group.responses)
    linear = 2 * tokens * layer_weights * arch.num_layers
    attention = 4 * pairs * queries * arch.num_layers
    head = 2 * outputs * arch.hidden_size * arch.vocab_size
    return 3.0 * (linear + attention + head)
