"""Make expert ids for responses, and force them in transformers' Qwen3-MoE."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch
from transformers import Qwen3MoeForCausalLM
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeTopKRouter

from megatron_pz.rl.experience import Response, ScoredGroup

Ids = np.ndarray
"""[tokens, layers, experts a token]"""


def with_random_experts(
    groups: Sequence[ScoredGroup], *, layers: int, experts: int, per_token: int, seed: int, dtype: type = np.uint8
) -> list[ScoredGroup]:
    """Draw ids for every token that an engine would compute; equal responses of a group have the same ids."""
    draw = random.Random(seed)

    def ids(tokens: int) -> bytes:
        rows = [[draw.sample(range(experts), per_token) for _ in range(layers)] for _ in range(tokens)]
        return np.asarray(rows, dtype).tobytes()

    routed = []
    for group in groups:
        prompt = ids(len(group.prompt_ids))
        of_tokens = {response.token_ids: ids(len(response.token_ids) - 1) for response in group.responses}
        responses = [replace(response, experts=of_tokens[response.token_ids]) for response in group.responses]
        responses[0] = replace(responses[0], prompt_experts=prompt)
        routed.append(replace(group, responses=tuple(responses)))
    return routed


def ids_of(group: ScoredGroup, response: Response, layers: int, dtype: type = np.uint8) -> Ids:
    """Read the ids of prompt and response back."""
    raw = group.responses[0].prompt_experts + response.experts
    return np.frombuffer(raw, dtype).reshape(len(group.prompt_ids) + len(response.token_ids) - 1, layers, -1)


def checkpoint_tensors(tensors: Iterable[tuple[str, torch.Tensor]]) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield transformers' tensors by the names of a checkpoint, which stores the experts separately."""
    for name, tensor in tensors:
        folder, _, last = name.rpartition(".")
        if last not in ("gate_up_proj", "down_proj"):
            yield name, tensor
            continue
        for expert, of_expert in enumerate(tensor):
            parts = of_expert.chunk(2) if last == "gate_up_proj" else (of_expert,)
            names = ("gate_proj", "up_proj") if len(parts) == 2 else (last,)
            for part, of_part in zip(names, parts, strict=True):
                yield f"{folder}.{expert}.{part}.weight", of_part


class ForcedRouters:
    """The routers of a transformers model, with forced choices and a record of their own preferences."""

    def __init__(self, model: Qwen3MoeForCausalLM) -> None:
        self.preferred: dict[int, torch.Tensor] = {}
        """By layer: int64 [tokens, experts a token], of the last forward pass."""
        self._forced: Ids | None = None
        for name, module in model.named_modules():
            if isinstance(module, Qwen3MoeTopKRouter):
                module.register_forward_hook(self._hook(int(name.split(".")[2])))

    @contextmanager
    def choose(self, ids: Ids) -> Iterator[None]:
        """Force the experts of the first ``len(ids)`` tokens of a sequence."""
        self._forced = ids
        yield
        self._forced = None

    def _hook(self, layer: int) -> Callable[..., tuple | None]:
        def forced(router: Qwen3MoeTopKRouter, inputs: tuple, output: tuple) -> tuple | None:
            logits, _, chosen = output
            self.preferred[layer] = chosen.sort(-1).values
            if self._forced is None:
                return None
            ids = chosen.clone()
            ids[: len(self._forced)] = torch.from_numpy(self._forced[:, layer].astype(np.int64))
            weights = logits.softmax(-1).gather(1, ids)
            return logits, weights / weights.sum(-1, keepdim=True) if router.norm_topk_prob else weights, ids

        return forced
