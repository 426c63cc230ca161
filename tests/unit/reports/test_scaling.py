"""Starts of a run, and the speed of runs of several sizes, from their logs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from megatron_pz.monitoring.launches import Launch, read_launches, record_launch
from megatron_pz.reports.scaling import efficiencies, in_order, read_point, scaling_table, speed_ups, title
from megatron_pz.runtime.errors import BadInput
from tools import report_scaling


def launch(iteration: int, processes: int, nodes: int = 1, device: str = "CPU") -> Launch:
    hosts = [f"n{number % nodes}" for number in range(processes)]
    return Launch.now(iteration, hosts, device, data_parallel_size=processes)


def write_run(folder: Path, processes: int, seconds: list[float], *, nodes: int = 1, device: str = "CPU") -> Path:
    """Write a run whose steps took these seconds, half in the rollout; each samples 600 tokens and trains on 900."""
    folder.mkdir(parents=True)
    record_launch(folder, launch(0, processes, nodes, device))
    lines = []
    for number, taken in enumerate(seconds, start=1):
        times = {"iteration": taken, "rollout": taken / 2, "update": taken / 4, "sync": 0.0}
        compute = {"sampled_tokens": 600.0 * number, "trained_tokens": 900.0 * number}
        line = {"iteration": number} | {f"time/{part}": value for part, value in times.items()}
        lines.append(json.dumps(line | {f"compute/{name}": value for name, value in compute.items()}))
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def test_a_launch_says_where_and_with_what(tmp_path: Path) -> None:
    record_launch(tmp_path, launch(0, 4, nodes=2, device="NVIDIA H200"))
    (found,) = read_launches(tmp_path)
    assert (found.processes, found.hosts, found.device) == (4, {"n0": 2, "n1": 2}, "NVIDIA H200")
    assert {"megatron-pz", "torch", "megatron-core"} <= found.versions.keys()


def test_a_resumed_run_drops_the_starts_whose_steps_it_repeats(tmp_path: Path) -> None:
    for iteration, processes in ((0, 1), (10, 2), (20, 3), (10, 4)):
        record_launch(tmp_path, launch(iteration, processes))
    assert [(each.iteration, each.processes) for each in read_launches(tmp_path)] == [(0, 1), (10, 2), (10, 4)]


def test_speed_and_efficiency(tmp_path: Path) -> None:
    runs = [
        write_run(tmp_path / "4", 4, [99.0, 3.0, 3.0, 3.0], nodes=2),
        write_run(tmp_path / "1", 1, [99.0, 6.0, 60.0, 6.0]),
    ]
    points = in_order([read_point(run) for run in runs])
    assert [(point.processes, point.nodes, point.steps) for point in points] == [(1, 1, 3), (4, 2, 3)]
    assert [point.seconds for point in points] == [6.0, 3.0], "the first step warms up, and one slow step is no median"
    assert (points[0].sampled, points[0].trained) == (100.0, 150.0)
    assert points[0].parts == (3.0, 1.5, 0.0) and points[0].rest == 1.5
    assert speed_ups(points) == [1.0, 2.0]
    assert efficiencies(points) == [1.0, 0.5]
    assert points[0].seconds_spread == (6.0, 33.0)
    assert points[1].seconds_spread == (3.0, 3.0)
    assert points[0].sampled_spread == (55.0, 100.0)
    assert [line.split()[-2:] for line in scaling_table(points).splitlines()[-2:]] == [
        ["1.00", "100%"],
        ["2.00", "50%"],
    ]


def test_checkpoints_and_evaluations_are_not_counted(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", 1, [5.0, 9.0])
    first, second = (json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines())
    second |= {"time/checkpoint": 2.0, "time/evaluation": 3.0}
    (run / "metrics.jsonl").write_text(f"{json.dumps(first)}\n{json.dumps(second)}\n")
    assert read_point(run).seconds == 4.0
    assert read_point(run, warm_up=0).seconds == 4.5


def test_the_title_names_model_and_recipe(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / str(size), size, [5.0, 8.0 / size]) for size in (1, 2)]
    for run, passages in zip(runs, (32, 64), strict=True):
        game = f"game: {{passages_per_step: {passages}, masks_per_passage: 8, grpo_group_size: 8}}"
        rollout = "rollout: {max_prompt_length: 1536, max_response_length: 4096}"
        (run / "config.yaml").write_text(f"model: {{hf_model: models/Qwen3-4B-Base}}\n{game}\n{rollout}\n")
    points = in_order([read_point(run) for run in runs])
    one = "CPU, Qwen3-4B-Base: 32 passages x 8 masks x 8 answers, 1536 + 4096 tokens"
    assert title(points[:1]) == one
    assert title(points) == f"{one}; the work grows with the processes"


def test_the_tool_prints_the_table_and_keeps_a_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [str(write_run(tmp_path / str(size), size, [5.0, 8.0 / size])) for size in (1, 2, 4)]
    report_scaling.main([*runs, "--output", str(tmp_path / "report")])
    assert (tmp_path / "report" / "scaling.txt").read_text() == capsys.readouterr().out
    assert (tmp_path / "report" / "scaling.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arrange", "words"),
    [
        (lambda folder: [folder / "nowhere"], "give the --save directory of a run"),
        (lambda folder: [write_run(folder / "a", 1, [1.0])], "none counts after 1 to warm up"),
        (lambda folder: [write_run(folder / name, 2, [1.0, 1.0]) for name in "ab"], "two runs have 2 processes"),
        (
            lambda folder: [
                write_run(folder / "a", 1, [1.0, 1.0]),
                write_run(folder / "b", 2, [1.0, 1.0], device="NVIDIA H200"),
            ],
            "different devices",
        ),
    ],
)
def test_what_cannot_be_compared_is_one_clear_line(
    arrange: Callable[[Path], list[Path]], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [str(run) for run in arrange(tmp_path)]
    with pytest.raises(SystemExit) as refused:
        report_scaling.main([*runs, "--output", str(tmp_path / "report")])
    (line,) = capsys.readouterr().err.splitlines()
    assert refused.value.code == 2 and words in line
    assert not (tmp_path / "report").exists()


def test_a_run_of_two_layouts_has_no_speed(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", 1, [1.0, 1.0])
    record_launch(run, launch(2, 2))
    with pytest.raises(BadInput, match="different processes"):
        read_point(run)
