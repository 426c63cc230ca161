"""Memory peaks of the parts of a step."""

from __future__ import annotations

import mmap

import pytest
import torch

from megatron_pz.monitoring.memory_peaks import device_used_gib
from megatron_pz.monitoring.timers import Timers


@pytest.mark.skipif(torch.cuda.is_available(), reason="reads the resident memory of a CPU's process")
def test_a_peak_belongs_to_the_part_that_needed_it() -> None:
    clock = Timers()
    with clock("large"), mmap.mmap(-1, 96 * 2**20) as pages:  # new pages, while a tensor may reuse freed ones
        for page in range(0, len(pages), mmap.PAGESIZE):
            pages[page] = 1
    with clock("small"):
        pass
    assert clock.peaks["large"] - clock.peaks["small"] > 64 / 1024
    assert clock.keys() == clock.peaks.keys() == {"large", "small"}
    assert device_used_gib() is None and clock.device_used == {}
