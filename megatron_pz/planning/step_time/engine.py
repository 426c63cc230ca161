"""Simulate a rollout engine's continuous batch by events: a response ends, or the cache is full.

Between two events the batch is constant, so the time of any number of token steps has a closed form.
"""

from __future__ import annotations

import heapq
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from megatron_pz.config.schema import RolloutConfig
from megatron_pz.hf.architecture import Architecture
from megatron_pz.monitoring.compute import forward_flops, layer_weights
from megatron_pz.planning.parameters import model_size
from megatron_pz.planning.step_time.devices import Device
from megatron_pz.planning.step_time.rates import Rates
from megatron_pz.planning.step_time.workload import Response

_ADMITTED_SHARE = 0.95
"""New sequences are admitted while the cache is filled to less than this; the rest is left to those that grow."""


@dataclass(frozen=True)
class EngineCost:
    """Seconds of an engine's work. A token step reads the weights once, and all keys and values of the batch."""

    arch: Architecture
    device: Device
    rates: Rates
    tensor: int
    """Devices of the engine."""
    weight_bytes: float
    """Bytes of a weight."""
    cache_bytes: float
    """Bytes of a key's or value's number."""
    max_sequences: int
    cache_tokens: int
    """Tokens whose keys and values fit."""
    _fixed: dict[int, float] = field(default_factory=dict, compare=False)

    def token_step(self, sequences: int) -> float:
        """Return the seconds of a token step of this many sequences, without reading keys and values."""
        if sequences not in self._fixed:
            rates, arch = self.rates, self.arch
            read = self.weight_bytes * self._weights_read(sequences) / self.tensor
            flops = 2.0 * sequences * (layer_weights(arch) + arch.vocab_size * arch.hidden_size) / self.tensor
            latency = 2 * arch.num_layers * rates.all_reduce_seconds if self.tensor > 1 else 0.0
            self._fixed[sequences] = (
                rates.token_step_seconds
                + latency
                + max(
                    read / (self.device.bandwidth * rates.bandwidth_share),
                    flops / (self.device.flops * rates.engine_flops_share),
                )
            )
        return self._fixed[sequences]

    def _weights_read(self, sequences: int) -> float:
        """Count the weights that a token step reads; in a mixture, only experts that some sequence chose count."""
        arch = self.arch
        if arch.experts is None:
            return model_size(arch)
        experts = arch.experts
        used = 1 - (1 - experts.per_token / experts.number) ** sequences
        of_experts = sum(experts.in_layer) * experts.number * 3 * arch.hidden_size * experts.ffn_hidden_size
        return model_size(arch) - of_experts + used * of_experts

    def context_second(self) -> float:
        """Return the seconds to read the keys and values of one token."""
        arch = self.arch
        groups = max(1.0, arch.num_query_groups / self.tensor)
        of_token = 2 * self.cache_bytes * arch.num_layers * groups * arch.kv_channels
        return of_token / (self.device.bandwidth * self.rates.bandwidth_share)

    def prefill(self, tokens: int) -> float:
        """Return the seconds to compute the keys and values of a prompt."""
        flops = forward_flops(self.arch, tokens, 0, tokens * (tokens + 1) / 2)
        return flops / (self.device.flops * self.rates.engine_flops_share * self.tensor)


def engine_cost(
    arch: Architecture, rollout: RolloutConfig, device: Device, rates: Rates, cache_tokens: int
) -> EngineCost:
    """Return the cost of an engine of this configuration; ``cache_tokens`` comes from the memory plan."""
    wide = 4.0 if rollout.rollout_dtype == "float32" else 2.0
    return EngineCost(
        arch,
        device,
        rates,
        rollout.rollout_tensor_parallel_size,
        1.0 if rollout.rollout_quantization == "fp8" else wide,
        wide,
        rollout.rollout_max_num_seqs,
        cache_tokens,
    )


def serve(responses: Iterable[Response], cost: EngineCost) -> NDArray[np.float64]:
    """Return the seconds after which each response ends, ascending, including responses that follow others.

    Responses are admitted in order. When the cache is full, the youngest responses are preempted and later recompute
    their keys and values, as in vLLM.
    """
    waiting = deque((response, 0) for response in responses)
    running: list[tuple[int, int, Response]] = []
    """Token step of the end, order of admission, response."""
    started: dict[int, int] = {}
    """Token step at which a running response had no token, by order of admission."""
    cached: set[int] = set()
    ends: list[float] = []
    live: Counter[int] = Counter()
    """Running responses of each prompt, whose blocks of the cache they share."""
    clock, step, context, shared, admitted = 0.0, 0, 0, 0, 0
    reading = cost.context_second()
    while waiting or running:
        while waiting and len(running) < cost.max_sequences:
            response, done = waiting[0]
            needed = done + (0 if live[response.group] else response.prompt)
            if running and context - shared + needed > _ADMITTED_SHARE * cost.cache_tokens:
                break
            waiting.popleft()
            computed = (0 if response.group in cached else response.prompt) + done
            cached.add(response.group)
            clock += cost.prefill(computed) if computed else 0.0
            admitted += 1
            started[admitted] = step - done
            heapq.heappush(running, (step - done + response.length, admitted, response))
            context += response.prompt + done
            shared += response.prompt if live[response.group] else 0
            live[response.group] += 1
        batch = len(running)
        steps = running[0][0] - step
        room = (cost.cache_tokens - context + shared) // batch
        if room < steps and batch > 1:
            steps = max(0, room)
        clock += steps * cost.token_step(batch) + reading * (steps * context + batch * steps * (steps - 1) / 2)
        step += steps
        context += batch * steps
        if running[0][0] > step:  # the cache is full
            youngest = max(running, key=lambda each: each[1])
            running.remove(youngest)
            heapq.heapify(running)
            response, done = youngest[2], step - started.pop(youngest[1])
            live[response.group] -= 1
            shared -= response.prompt if live[response.group] else 0
            context -= response.prompt + done
            waiting.appendleft((response, done))
            continue
        while running and running[0][0] == step:
            _, number, response = heapq.heappop(running)
            del started[number]
            live[response.group] -= 1
            shared -= response.prompt if live[response.group] else 0
            context -= response.prompt + response.length
            ends.append(clock)
            waiting.extend((follower, 0) for follower in response.followers)
    return np.array(ends)
