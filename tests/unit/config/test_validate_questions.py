"""Refused settings of question answering, each in one line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from megatron_pz.config.parse import parse_run_config
from megatron_pz.runtime.errors import BadInput


@pytest.fixture
def required(tmp_path: Path) -> list[str]:
    (tmp_path / "q.jsonl").write_text('{"question": "1 + 1", "answer": "2"}\n')
    return ["--hf-model", str(tmp_path), "--save", str(tmp_path / "run"), "--question-path", str(tmp_path / "q.jsonl")]


def test_questions_take_the_place_of_passages(required: list[str]) -> None:
    config = parse_run_config([*required, "--eval-interval", "0"], "megatron_pz.rlvr")
    assert config.questions.question_path == (required[-1],) and not config.data.data_path
    with pytest.raises(BadInput, match="--data-path is missing"):
        parse_run_config(required[:-2], "megatron_pz.rlvr")


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["--reasoning-gym-tasks", "gcd"], "both name training questions"),
        (["--grader", "reasoning_gym"], "--grader reasoning_gym scores its own tasks only"),
        (["--grader", "letter"], "--grader letter needs --options-field"),
        (["--response-stop", ""], "--response-stop: holds an empty string"),
        (["--grader", "verifier"], r"--verifier-url \(empty\)"),
        (["--grader", "verifier", "--verifier-url", "host:8000"], "--verifier-url host:8000: the grader"),
        *(
            (["--grader", "verifier", "--verifier-url", url], f"--verifier-url {re.escape(url)}: the grader")
            for url in (
                "http://",
                "http:///v1",
                "http://host:99999/v1",
                "http://host:port/v1",
                "http://a b/v1",
                "http://[::1/v1",
                "http://host/v1?key=1",
            )
        ),
        (["--grader", "verifier", "--verifier-url", "http://host"], "--verifier-model is missing"),
        (["--no-answer-reward", "0.5"], "--no-answer-reward 0.5: must be at most 0"),
        (["--eval-interval", "2"], "--eval-interval 2 needs --valid-data-path or --valid-question-path"),
    ],
)
def test_what_cannot_work_is_refused(flags: list[str], complaint: str, required: list[str]) -> None:
    with pytest.raises(BadInput, match=complaint):
        parse_run_config([*required, *flags], "megatron_pz.rlvr")
