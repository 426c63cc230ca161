"""Run ranks that wait for each other in collectives, under the watchdog, with several failures of one rank."""

from __future__ import annotations

import os
import threading
import time
import warnings
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import _get_default_store

from megatron_pz.run.signals import StopRequest
from megatron_pz.runtime.errors import BadInput, exits_with_one_line
from megatron_pz.runtime.watchdog import Watchdog

HEARTBEAT_TIMEOUT = 4.0
CULPRIT = 1


def stall(watchdog: Watchdog) -> None:
    """Imitate an engine that never answers."""
    with watchdog.phase("rollout", limit=1.0, setting="--rollout-timeout-minutes"):
        threading.Event().wait()


def stall_with_the_lock(watchdog: Watchdog) -> None:
    """Stall in native code that holds Python's global interpreter lock, so that not even the watchdog can run."""
    import ctypes

    with watchdog.phase("rollout", limit=1.0, setting="--rollout-timeout-minutes"):
        ctypes.PyDLL(None).sleep(600)


def raise_an_error(watchdog: Watchdog) -> None:
    raise KeyError("a mistake in the code")


def refuse(watchdog: Watchdog) -> None:
    raise BadInput("this node has no such file")


def wait(watchdog: Watchdog) -> None:
    """Wait until a signal arrives."""
    with watchdog.phase("update"):
        threading.Event().wait()


def late(watchdog: Watchdog) -> None:
    """Stay alive without joining the collective in which the others wait."""
    with watchdog.phase("the dentist's waiting room"):
        time.sleep(600)


@exits_with_one_line
def ranks(deed: str) -> None:
    """Run three common steps; then the culprit fails while the others are in the next all-reduce."""
    warnings.simplefilter("ignore")
    timeout = timedelta(seconds=2 if deed == "late" else 60)
    dist.init_process_group("gloo", timeout=timeout)
    rank = dist.get_rank()
    with Watchdog(HEARTBEAT_TIMEOUT) as watchdog, StopRequest():
        watchdog.watch(rank, dist.get_world_size(), _get_default_store())
        for iteration in range(1, 4):
            watchdog.step(f"iteration {iteration}")
            dist.all_reduce(torch.ones(1))
        os.write(1, b"READY\n")
        if deed != "none" and rank == CULPRIT:
            globals()[deed](watchdog)
        with watchdog.phase("update"):
            dist.all_reduce(torch.ones(1))
    dist.destroy_process_group()
