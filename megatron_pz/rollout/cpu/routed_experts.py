"""Return the experts of each token on a CPU, where vLLM has the setting but no implementation.

vLLM 0.32 collects expert ids only in its Model Runner V2, which needs Triton. Its routers, scheduler and requests have
hooks for either runner. :class:`ExpertsBySlot` connects them: it stores the ids by the slot of the token, as the KV
cache stores keys. A cached prefix therefore also has its ids.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from megatron_pz.runtime.errors import BadInput

if TYPE_CHECKING:
    from vllm import LLM


def install(llm: LLM) -> None:
    """Make an engine that runs entirely in this process return expert ids with its responses."""
    scheduler = llm.llm_engine.engine_core.engine_core.scheduler
    by_slot = ExpertsBySlot(scheduler, llm.llm_engine.vllm_config)
    llm.apply_model(by_slot.bind)
    scheduler.aux_output_connector = by_slot


class ExpertsBySlot:
    """Collects expert ids in the forward passes, and passes them to the requests of the tokens.

    This class replaces vLLM's ``AuxOutputSchedulerConnector`` and has its methods.
    """

    def __init__(self, scheduler: Any, vllm_config: Any) -> None:
        """Allocate the ids of all slots: layers x experts per token bytes each, twice that above 256 experts."""
        model = vllm_config.model_config
        layers, per_token = model.get_total_num_hidden_layers(), model.get_num_experts_per_tok()
        self._blocks = scheduler.kv_cache_manager
        self._block_size = vllm_config.cache_config.block_size
        slots = scheduler.kv_cache_config.num_blocks * self._block_size
        self._ids = np.zeros((slots, layers, per_token), np.uint8 if model.get_num_experts() <= 256 else np.uint16)
        self._taken: dict[str, int] = {}
        """Tokens of each request whose ids have been handed out."""

    def bind(self, model: torch.nn.Module) -> None:
        """Make the routers of vLLM's model report their choices.

        Raises:
            BadInput: a kernel of this model chooses the experts itself without reporting them.
        """
        from vllm.model_executor.layers.fused_moe.router.base_router import BaseRouter

        experts: list[Any] = [each for each in model.modules() if isinstance(getattr(each, "router", None), BaseRouter)]
        for of_layer in experts:
            method = of_layer._quant_method
            if method.is_monolithic:
                name = type(method).__name__
                raise BadInput(f"--moe-enable-routing-replay: vLLM's {name} does not tell which experts it chooses")
            of_layer.router.set_capture_fn(functools.partial(self.capture, of_layer.layer_id))

    def capture(self, layer: int, ids_Tk: torch.Tensor) -> None:
        """Store the k expert ids that a layer's router has chosen for each of the T tokens of a forward pass."""
        from vllm.forward_context import get_forward_context

        slot_mapping = get_forward_context().slot_mapping
        assert isinstance(slot_mapping, dict)
        if slot_mapping:  # skip passes that only measure memory
            slots_T = next(iter(slot_mapping.values()))
            self._ids[slots_T.numpy(), layer] = ids_Tk.numpy()

    def take_output(self, request: Any, output: Any) -> np.ndarray | None:
        """Return the ids [tokens, layers, experts per token] of a request's tokens since the last call.

        The newest token has been sampled but not computed, and therefore has no ids.
        """
        start, end = self._taken.get(request.request_id, 0), request.num_tokens - 1
        if start >= end:
            return None
        (blocks,) = self._blocks.get_block_ids(request.request_id)
        size = self._block_size
        slots = [blocks[token // size] * size + token % size for token in range(start, end)]
        self._taken[request.request_id] = end
        return self._ids[slots]

    def build_connector_meta(self, scheduler_output: Any, requests: Any) -> None:
        """Return no metadata: the worker is in this process."""

    def request_finished(self, request: Any) -> None:
        """Forget a request that has ended; vLLM also calls this for a preempted request, which is recomputed."""
        if request.is_finished():
            self._taken.pop(request.request_id, None)

    def reset(self) -> None:
        """Do nothing when the prefix cache is emptied: no request is running, and slots are overwritten."""
