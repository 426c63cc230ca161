"""Define the rates of the simulation: the shares of a device's peaks that real code reaches, and fixed overheads."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Rates:
    """Constants of the simulation. The defaults are assumptions for a GPU that no run of this project has confirmed.

    With the defaults, the simulated steps of NeMo-RL's public table for Llama-3.1-8B on H100s are within 25 % of the
    published ones (``tests/unit/planning/test_step_time_checks.py``).
    """

    bandwidth_share: float = 0.7
    """Share of the memory's bandwidth at which engines read weights and keys and values."""
    engine_flops_share: float = 0.5
    """Share of the peak in the engines' matrix products, prefill included."""
    token_step_seconds: float = 1.5e-3
    """Seconds of an engine's token step in which it reads and multiplies nothing: scheduling, launches, sampling."""
    update_flops_share: float = 0.4
    """Model FLOP utilization of an update before pipeline bubbles, imbalance and communication."""
    link_share: float = 0.7
    """Share of a link's rate that collectives and copies reach, and of the memory's that optimizer steps reach."""
    all_reduce_seconds: float = 1e-5
    """Latency of an all-reduce within an engine's tensor parallel group."""
    sync_bytes_per_second: float = 27e9
    """Weights that reach a colocated engine; NeMo-RL publishes .21 to .34 s for Qwen3-4B's 8 GB on H100s."""
    rest_seconds: float = 0.5
    """Seconds of a step outside rollout, update and sync: passages, rewards, packing, logs."""


GPU_RATES = Rates()
CPU_RATES = Rates(token_step_seconds=5e-3, engine_flops_share=0.9, sync_bytes_per_second=1e9, rest_seconds=0.2)
"""Initial rates of a calibration on CPUs. vLLM on one core took 27 ms for a token step of SmolLM2-135M at batch 1, 255
ms at batch 128."""


MIXTURE_UPDATE_SHARE = 0.2
"""``update_flops_share`` of a mixture of experts on GPUs, whose matrices are small; assumed."""


def default_rates(device_name: str, *, is_mixture: bool = False) -> Rates:
    """Return the rates that a simulation starts from."""
    if device_name == "CPU":
        return CPU_RATES
    return replace(GPU_RATES, update_flops_share=MIXTURE_UPDATE_SHARE) if is_mixture else GPU_RATES
