"""Measure the processor time of a call, which does not depend on the machine's other load."""

from __future__ import annotations

import time
from collections.abc import Callable


def cpu_seconds(call: Callable[[], object]) -> float:
    """Return the processor time that a call takes in this process."""
    begin = time.process_time()
    call()
    return time.process_time() - begin
