"""Make vLLM use the same vector instructions as torch in this process."""

from __future__ import annotations

import torch

_ASKED = ("_is_avx512_supported", "_is_avx512_bf16_supported", "_is_amx_tile_supported", "_is_amx_fp16_supported")
"""The functions of ``torch.cpu`` by which vLLM inspects the processor. The first two choose its library: ``_C_AVX2``,
``_C_AVX512`` or ``_C``, which needs bfloat16 instructions."""


def has_avx512() -> bool:
    """Return whether torch uses AVX-512 on this machine; ``ATEN_CPU_CAPABILITY=avx2`` forbids it."""
    return torch.backends.cpu.get_cpu_capability() == "AVX512"


def follow_torch() -> None:
    """Report no AVX-512 to vLLM if torch is limited to AVX2 on a processor that has more.

    ``torch.cpu`` describes the processor and ignores ``ATEN_CPU_CAPABILITY``. Otherwise the libraries of one process
    would disagree, and a machine with AVX-512 could not emulate one without it (``tools/without_avx512.sh``). This
    function does nothing on other processors.
    """
    if torch.backends.cpu.get_cpu_capability() in ("AVX2", "DEFAULT") and torch.cpu._is_avx512_supported():
        for name in _ASKED:
            if hasattr(torch.cpu, name):
                setattr(torch.cpu, name, lambda: False)
