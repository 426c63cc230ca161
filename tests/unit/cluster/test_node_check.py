"""The report of the examination of a job's nodes. tests/system/test_slurm.py runs it on two nodes."""

from __future__ import annotations

from megatron_pz.cluster.node_check import RankReport, problems, summary


def report(rank: int, host: str, teraflops: float = 400.0, **versions: str) -> RankReport:
    return RankReport(rank, host, "NVIDIA H200", {"torch": "2.11.0"} | versions, teraflops)


def test_equal_nodes_have_no_problems() -> None:
    assert problems([report(rank, f"n{rank // 2}", 400.0 + rank) for rank in range(4)]) == []


def test_versions_that_differ_are_named_with_their_hosts() -> None:
    found = problems([report(0, "n1"), report(1, "n2", torch="2.13.0"), report(2, "n1", vllm="0.24.0")])
    assert found == [
        "torch differs: 2.11.0 on n1, 2.13.0 on n2",
        "vllm differs: absent on n1/n2, 0.24.0 on n1",
    ]


def test_a_slow_device_is_named() -> None:
    (line,) = problems([report(0, "n1"), report(1, "n1"), report(2, "n2", 200.0)])
    assert line == "rank 2 (n2, NVIDIA H200) computes 200.00 TFLOP/s, 50% of the median"


def test_the_rate_is_that_of_the_links() -> None:
    """A ring sends every byte 2 (n - 1) / n times: 1.5 GiB per rank for 1 GiB on four ranks, in half a second."""
    lines = summary([report(rank, "n1", 100.0 + rank) for rank in range(4)], 1024, 0.5)
    assert lines[1] == "all-reduce of 1024 MiB: 500.0 ms, 3.00 GiB/s a rank over the links"
    assert lines[2].endswith("slowest rank 0 on n1 with 100.00")
