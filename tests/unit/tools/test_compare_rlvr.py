"""The comparison of RLVR from two initial models: pairs of questions, seeds, and incomparable runs."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from megatron_pz.config.schema import RunConfig
from megatron_pz.run.comparable import differing_settings
from megatron_pz.runtime.errors import BadInput
from tests.support.scripted_run import with_fields
from tools.compare_rlvr import main


def make_run(
    folder: Path, accuracy: dict[int, list[float]], settings: str = "", questions: str = "abc", seed: int = 1
) -> str:
    folder.mkdir()
    (folder / "config.yaml").write_text(
        f"training: {{seed: {seed}, save: {folder}}}\nmodel: {{hf_model: {folder}}}\n{settings}"
    )
    lines = ({"iteration": step, "questions": questions, "accuracy": values} for step, values in accuracy.items())
    (folder / "held_out.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(folder)


def test_the_table_by_hand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = [make_run(tmp_path / f"b{seed}", {0: [0, 0, 0, 0], 9: [0, 0, 0, 1]}) for seed in (1, 2)]
    after = [
        make_run(tmp_path / "a1", {0: [0, 0, 0, 0], 5: [1, 1, 1, 1], 9: [1, 1, 1, 1]}),
        make_run(tmp_path / "a2", {0: [0, 0, 0, 0], 9: [1, 0, 1, 1]}),
    ]
    main(["--before", *before, "--after", *after])
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    (nothing,) = [row for row in rows if row[:1] == ["0"]]
    (end,) = [row for row in rows if row[:1] == ["9"]]
    assert not [row for row in rows if row[:1] == ["5"]], "not all runs were evaluated there"
    assert "*" not in nothing and nothing[7] == "+0.000"
    # Over the seeds: 0, 0, 0, 1 before, 1, .5, 1, 1 after; differences 1, .5, 1, 0: mean .625, deviation .4787.
    assert end[1:7] == ["0.250", "±", "0.490", "0.875", "±", "0.245"]
    assert end[7:11] == ["+0.625", "±", "0.469", "*"] and end[11:] == ["+0.750,", "+0.500"]


def test_runs_that_are_not_alike_are_refused(tmp_path: Path) -> None:
    one = make_run(tmp_path / "one", {0: [1]})
    rate = make_run(tmp_path / "rate", {0: [1]}, "optimizer: {lr: 1.0e-6}\nquestions: {grader: exact}\n")
    with pytest.raises(SystemExit) as ended:
        main(["--before", one, "--after", rate])
    assert ended.value.code == 2
    for other, words in (
        (make_run(tmp_path / "asked", {0: [1]}, questions="other"), "different held-out questions"),
        (make_run(tmp_path / "later", {7: [1]}), "no iteration at which all"),
    ):
        with pytest.raises(BadInput, match=words):
            main.__wrapped__(["--before", one, "--after", other])
    with pytest.raises(BadInput, match="--before names 1 runs and --after 2: give pairs"):
        main.__wrapped__(["--before", one, "--after", one, rate])
    (tmp_path / "rate/held_out.jsonl").unlink()
    with pytest.raises(BadInput, match=r"optimizer\.lr is 5e-07 and 1e-06; questions\.grader is 'math' and 'exact'"):
        main.__wrapped__(["--before", one, "--after", rate])
    (tmp_path / "one/held_out.jsonl").unlink()
    with pytest.raises(BadInput, match=r"give runs of megatron_pz.rlvr with --eval-interval"):
        main.__wrapped__(["--before", one, "--after", one])


@pytest.mark.parametrize(
    ("accuracy", "words"),
    [
        ({0: [1, 0], 9: [1]}, "not of equally many questions"),
        ({0: []}, "not of equally many questions"),
        ({0: [1]}, "different numbers of held-out questions"),
        ({0: ["x", "y"]}, "a line that megatron_pz.rlvr did not write"),
        ({0: [None, 1]}, "a line that megatron_pz.rlvr did not write"),
        ({0: [1, 1.5]}, "a line that megatron_pz.rlvr did not write"),
        ({0: "ab"}, "a line that megatron_pz.rlvr did not write"),
    ],
)
def test_accuracies_that_no_run_has_are_refused(accuracy: dict[int, Any], words: str, tmp_path: Path) -> None:
    one, other = make_run(tmp_path / "one", {0: [1, 0]}), make_run(tmp_path / "other", accuracy)
    with pytest.raises(BadInput, match=words):
        main.__wrapped__(["--before", one, "--after", other])


def test_a_run_stands_for_one_seed_only(tmp_path: Path) -> None:
    one, other = (make_run(tmp_path / name, {0: [1, 0]}) for name in ("one", "other"))
    with pytest.raises(BadInput, match="named twice"):
        main.__wrapped__(["--before", one, one, "--after", other, other])


def test_runs_are_paired_by_their_seeds(tmp_path: Path) -> None:
    before = [make_run(tmp_path / f"b{seed}", {0: [0, 1]}, seed=seed) for seed in (1, 2)]
    after = [make_run(tmp_path / f"a{seed}", {0: [1, 1]}, seed=seed) for seed in (1, 2)]
    with pytest.raises(BadInput, match=r"--before has the seeds \[1, 2\] and --after \[2, 1\]"):
        main.__wrapped__(["--before", *before, "--after", *after[::-1]])


def test_start_seed_place_and_layout_may_differ_and_nothing_else() -> None:
    config = RunConfig()
    free = with_fields(
        config,
        model={"hf_model": "other"},
        training={"seed": 7, "save": "there", "save_interval": 3},
        parallel={"tensor_model_parallel_size": 2},
    )
    assert differing_settings(config, free) == []
    for section in dataclasses.fields(RunConfig):
        if section.name == "parallel":
            continue
        for each in dataclasses.fields(getattr(config, section.name)):
            changed = with_fields(config, **{section.name: {each.name: "changed"}})
            phrases = differing_settings(config, changed)
            assert not phrases or phrases[0].startswith(f"{section.name}.{each.name} is ")
    assert differing_settings(config, with_fields(config, grpo={"grpo_kl_beta": 0.1}, optimizer={"lr": 1.0}))
