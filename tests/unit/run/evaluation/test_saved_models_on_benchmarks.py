"""Benchmarks of saved models on scripted engines: results, resumption and refusals."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from transformers import AutoTokenizer

from megatron_pz.config.schema import RolloutConfig
from megatron_pz.evaluation.benchmarks import store
from megatron_pz.evaluation.benchmarks.prompts import BenchmarkSettings
from megatron_pz.evaluation.benchmarks.scores import ModelScores
from megatron_pz.rl.experience import Decoding, Response
from megatron_pz.run.evaluation import served_models
from megatron_pz.run.evaluation.saved_models_on_benchmarks import BenchmarkRequest, evaluate_benchmarks
from megatron_pz.run.evaluation.served_models import ServedModel
from megatron_pz.runtime.errors import BadInput
from megatron_pz.runtime.files import LOCK_FILE, claimed_directory
from tests.support.benchmark_files import SUMS, respond, write_gsm8k, write_mmlu_pro
from tests.support.tiny_corpus import write_corpus
from tools import compare_benchmarks

ROLLOUT = RolloutConfig(rollout_dtype="float32")
ANSWERS = {text: f"So it is \\boxed{{{answer}}}." for text, answer in SUMS}


class Killed(BaseException):
    """Raised instead of SIGKILL."""


@dataclass
class Calculator:
    """Solves the sums, or only every second one, answers B to all else, and dies in the planned call."""

    directory: Path
    rollout: RolloutConfig
    lives: int
    forgetful: bool = False
    tied_head: bool = True
    calls: int = 0

    @property
    def context(self) -> int:
        return self.rollout.max_prompt_length + self.rollout.max_response_length

    def generate(
        self, prompts: list, n: int, *, seeds: list[int], max_tokens: int, stop: list, decoding: Decoding | None
    ) -> list[list[Response]]:
        self.calls += 1
        if self.calls > self.lives:
            raise Killed
        tokenizer = AutoTokenizer.from_pretrained(self.directory)
        return [[respond(self.answer(tokenizer.decode(prompt)))] * n for prompt in prompts]

    def answer(self, prompt: str) -> str:
        for number, (text, solution) in enumerate(ANSWERS.items()):
            if text in prompt:
                return "I forgot" if self.forgetful and number % 2 else solution
        return "\\boxed{B}"

    def close(self) -> None:
        """Do nothing."""


class Engines(list[Calculator]):
    """The started engines."""

    lives = 1_000
    """Calls that an engine started from now on survives."""

    def start(self, directory: Path, rollout: RolloutConfig, **_: Any) -> Calculator:
        self.append(Calculator(directory, rollout, self.lives))
        return self[-1]


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> Engines:
    """Replace vLLM's engines; an engine with changed weights solves only every second sum."""
    engines = Engines()
    monkeypatch.setattr(served_models, "VllmEngine", engines.start)
    monkeypatch.setattr(served_models, "load_weights", lambda engine, stream: setattr(engine, "forgetful", True))
    return engines


@pytest.fixture
def ask(tmp_path: Path, tiny_llama_dir: Path) -> Callable[..., str]:
    """Evaluate the tiny model, by default on all data, with two questions per part."""
    data = write_gsm8k(write_mmlu_pro(tmp_path / "data"))

    def evaluate(
        results: str, names: str = "gsm8k mmlu_pro", models: tuple[Path, ...] = (tiny_llama_dir,), **flags: Any
    ) -> str:
        chosen = {"prompt_format": "plain", "max_tokens": 30, "responses_per_part": 2} | flags.pop("settings", {})
        settings = BenchmarkSettings("general_reasoner", **chosen)
        request = BenchmarkRequest(tuple(names.split()), data, tmp_path / results, settings, **flags)
        served = [ServedModel.of(each, each) for each in models]
        called = [f"model{number}" for number in range(len(models))]
        return evaluate_benchmarks(served, called, request, ROLLOUT, rank=0, world_size=1)

    return evaluate


def files(folder: Path) -> dict[str, bytes]:
    found = {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
    return {name: content for name, content in found.items() if name != LOCK_FILE}


def test_scores_and_answers_of_one_model(ask: Callable[..., str], engines: Engines, tmp_path: Path) -> None:
    text = ask("results")
    (engine,) = engines
    assert engine.calls == 6, "three parts of sums and three of choices"
    scores = {each.benchmark: each for each in ModelScores.load(tmp_path / "results/model0").benchmarks}
    assert scores["gsm8k"].scores["micro"].mean == 1.0
    # B is right for one of physics' two questions and one of law's three.
    assert scores["mmlu_pro"].scores["micro"].mean == 2 / 5
    assert scores["mmlu_pro"].scores["macro"].mean == pytest.approx((1 / 2 + 1 / 3) / 2)
    answers = pq.read_table(tmp_path / "results/model0/gsm8k.parquet").to_pylist()
    assert [row["extracted"] for row in answers] == [str(answer) for _, answer in SUMS]
    assert all(question in row["prompt"] for row, (question, _) in zip(answers, SUMS, strict=True))
    assert sorted(files(tmp_path / "results")) == [
        *(f"model0/{name}" for name in ("gsm8k.json", "gsm8k.parquet", "mmlu_pro.json", "mmlu_pro.parquet")),
        "model0/results.json",
        "results.txt",
    ]
    assert (tmp_path / "results/results.txt").read_text() == text + "\n"
    assert "gsm8k: all, one answer, greedy, at most 30 tokens, plain completion, recipe general_reasoner" in text


@pytest.mark.parametrize("lives", [0, 1, 4, 5])
def test_a_killed_evaluation_goes_on_to_the_same_files(
    ask: Callable[..., str], engines: Engines, tmp_path: Path, lives: int
) -> None:
    whole = ask("whole")
    engines.lives = lives
    with pytest.raises(Killed):
        ask("killed")
    engines.lives = 1_000
    assert ask("killed") == whole
    assert engines[-1].calls == 6 - lives, "nothing is asked twice"
    assert files(tmp_path / "killed") == files(tmp_path / "whole")
    assert ask("killed") == whole
    assert len(engines) == 3, "a finished evaluation starts no engine"


@pytest.mark.parametrize("step", ["concat_tables", "rmtree"])
def test_a_run_killed_while_it_joins_its_parts_goes_on(
    step: str, ask: Callable[..., str], engines: Engines, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object, **__: object) -> None:
        raise Killed

    ask("whole")
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(store.pa if step == "concat_tables" else store.shutil, step, killed)
        ask("killed")
    ask("killed")
    assert files(tmp_path / "killed") == files(tmp_path / "whole")
    assert len(engines) == 2, "all was answered"


def test_models_are_compared_in_pairs(
    ask: Callable[..., str],
    engines: Engines,
    tmp_path: Path,
    tiny_llama_dir: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The second model, of equal shape, uses the first one's engine and fails every second sum."""
    other = Path(shutil.copytree(tiny_llama_dir, tmp_path / "other"))
    text = ask("results", models=(tiny_llama_dir, other))
    assert len(engines) == 1
    line = next(line for line in text.splitlines() if "gsm8k micro" in line and "-0.500" in line)
    assert line.split()[2:6] == ["6", "1.000", "0.500", "-0.500"]
    assert "model0 -> model1, the same questions in pairs" in text
    folders = [str(tmp_path / f"results/model{number}") for number in (0, 1)]
    compare_benchmarks.main([*folders, "--output", str(tmp_path / "again.json")])
    assert capsys.readouterr().out == text + "\n", "saved results give the same comparison"
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "results/comparisons.json").read_bytes()
    ask("others", "gsm8k", settings={"max_tokens": 29})
    with pytest.raises(SystemExit) as stop:
        compare_benchmarks.main([folders[0], str(tmp_path / "others/model0")])
    assert stop.value.code == 2 and "they differ in max tokens" in capsys.readouterr().err


def test_a_set_may_be_added_later(ask: Callable[..., str], engines: Engines, tmp_path: Path) -> None:
    ask("results", "gsm8k")
    ask("results", "gsm8k mmlu_pro")
    assert [engine.calls for engine in engines] == [3, 3]
    assert [each.benchmark for each in ModelScores.load(tmp_path / "results/model0").benchmarks] == [
        "gsm8k",
        "mmlu_pro",
    ]


def test_sets_of_earlier_commands_stay_in_the_results(
    ask: Callable[..., str], engines: Engines, tmp_path: Path
) -> None:
    def kept() -> dict[str, float]:
        found = ModelScores.load(tmp_path / "results/model0").benchmarks
        return {each.benchmark: each.scores["micro"].mean for each in found}

    ask("results", "gsm8k")
    assert "gsm8k" not in ask("results", "mmlu_pro"), "the text shows what the command asked"
    assert kept() == {"gsm8k": 1.0, "mmlu_pro": 0.4}
    for name in ("gsm8k.json", "gsm8k.parquet"):
        (tmp_path / "results/model0" / name).unlink()
    ask("results", "mmlu_pro")
    assert kept() == {"mmlu_pro": 0.4}, "a score without answers does not stay"


def test_a_damaged_result_is_named_before_anything_is_asked(
    ask: Callable[..., str], engines: Engines, tmp_path: Path
) -> None:
    (tmp_path / "results/model0").mkdir(parents=True)
    (tmp_path / "results/model0/results.json").write_text("[]")
    with pytest.raises(BadInput, match=r"results\.json is not a result of tools/evaluate\.py"):
        ask("results")
    assert not engines


def test_a_second_evaluation_into_a_folder_is_refused(
    ask: Callable[..., str], engines: Engines, tmp_path: Path
) -> None:
    with claimed_directory(tmp_path / "results", "--results"):
        with pytest.raises(BadInput, match=r"--results .*results is in use by a call that is still alive"):
            ask("results", "gsm8k")
        assert not engines
    ask("results", "gsm8k")


def test_answers_of_other_settings_models_or_data_are_refused(
    ask: Callable[..., str], engines: Engines, tmp_path: Path, tiny_llama_dir: Path
) -> None:
    ask("results", "gsm8k")
    before = files(tmp_path / "results")
    with pytest.raises(BadInput, match=r"gsm8k\.json: .* another seed \(11, now 12\); give another --results folder"):
        ask("results", "gsm8k", settings={"seed": 12})
    other = Path(shutil.copytree(tiny_llama_dir, tmp_path / "other"))
    weights = (other / "model.safetensors").read_bytes()
    (other / "model.safetensors").write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    with pytest.raises(BadInput, match=r"another model; give another"):
        ask("results", "gsm8k", models=(other,))
    path = tmp_path / "data/gsm8k/test.jsonl"
    path.write_text(path.read_text().replace("#### 7", "#### 8"))
    with pytest.raises(BadInput, match=r"another data; give another"):
        ask("results", "gsm8k")
    assert files(tmp_path / "results") == before and len(engines) == 1


def test_a_missing_chat_template_ends_it_before_an_engine_starts(ask: Callable[..., str], engines: Engines) -> None:
    with pytest.raises(BadInput, match="no chat template"):
        ask("results", settings={"prompt_format": "chat"})
    assert not engines


def test_prompts_beyond_the_context_are_named(ask: Callable[..., str], engines: Engines, tmp_path: Path) -> None:
    text = ask("results", "mmlu_pro", context=180)
    scores = ModelScores.load(tmp_path / "results/model0").benchmarks[0]
    assert len(scores.too_long) == 3 and engines[0].context == 180
    assert "prompts longer than the context of 180 tokens: 2, 3, 4" in text
    assert "mmlu_pro: prompts too long for the context, wrong" in text


def test_contamination_stands_in_the_result(
    ask: Callable[..., str], engines: Engines, tmp_path: Path, tiny_tokenizer_dir: Path
) -> None:
    corpus = write_corpus(tmp_path / "wiki", tiny_tokenizer_dir, [["Nothing here."], [f"They ask: {SUMS[2][0]}"]])
    text = ask("results", "gsm8k", contamination=(corpus,))
    found = ModelScores.load(tmp_path / "results/model0").benchmarks[0]
    assert found.contamination is not None
    assert (found.contamination.questions, found.contamination.passages) == (("2",), 2)
    assert found.clean is not None and found.clean.mean == 1.0
    assert "1 of 6" in text
    assert json.loads((tmp_path / "results/model0/results.json").read_text())["benchmarks"][0]["contamination"]["words"]
