"""Question answering in whole runs on scripted engines: learning, storage, resumption and refusals."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from megatron_pz.algorithm.question_metrics import question_compute
from megatron_pz.config.schema import RunConfig
from megatron_pz.question_answering.graders import Answered, AnswerGrader, Grade
from megatron_pz.question_answering.verifier import VerifierFailed
from megatron_pz.rl.packing import packed_length
from megatron_pz.run.objective import StepNotDone
from megatron_pz.run.rlvr import RlvrObjective
from megatron_pz.runtime.errors import BadInput
from tests.support.scripted_run import (
    ScriptedEngine,
    question_config,
    run_to_the_end,
    started_run,
    weights_of,
    with_fields,
)


@pytest.fixture
def config(tiny_llama_dir: Path, tmp_path: Path, scripted_engines: type[ScriptedEngine]) -> RunConfig:
    return question_config(tiny_llama_dir, tmp_path / "run", tmp_path / "train.jsonl", tmp_path / "held_out.jsonl")


def held_out(config: RunConfig) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (Path(config.training.save) / "held_out.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("gym", [False, True], ids=["files", "generated"])
def test_a_resumed_run_is_the_run_in_one_piece(gym: bool, config: RunConfig, tmp_path: Path) -> None:
    """Metrics, weights and held-out results are equal bit for bit, with dynamic sampling, 2 updates and a reference."""
    if gym:
        pytest.importorskip("reasoning_gym")
        easy = "chain_sum:min_terms=2,max_terms=2,min_digits=1,max_digits=1,allow_negation=false"
        generated = {
            "question_path": (),
            "valid_question_path": (),
            "reasoning_gym_tasks": (easy,),
            "eval_questions": 6,
        }
        config = with_fields(config, questions=generated)
    config = with_fields(
        config,
        game={"dynamic_sampling": True, "max_sampling_rounds": 2},
        grpo={"updates_per_step": 2, "grpo_kl_beta": 0.1},
    )
    ends = {}
    for name, parts in {"whole": ({},), "parts": ({"train_iters": 2}, {"load": str(tmp_path / "parts")})}.items():
        for part in parts:
            own = with_fields(config, training={"save": str(tmp_path / name), **part})
            run, steps = run_to_the_end(own, RlvrObjective)
        ends[name] = steps, weights_of(run)[""], held_out(own)
    steps, weights, results = ends["whole"]
    assert ends["parts"][0] == steps and ends["parts"][2] == results
    assert all(torch.equal(ends["parts"][1][name], weight) for name, weight in weights.items())
    assert all(sum(step["solver/groups_learned_from"] for step in half) for half in (steps[:2], steps[2:]))
    assert [result["iteration"] for result in results] == [0, 2, 4]
    assert max(step["train/sampling_rounds"] for step in steps) == 2


def test_a_verifier_that_fails_ends_the_run_where_it_can_go_on_exactly(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fifth call grades the third step, after two evaluations; only the last step would write a checkpoint."""
    config = with_fields(config, training={"save_interval": 4})
    _, whole = run_to_the_end(with_fields(config, training={"save": str(tmp_path / "whole")}), RlvrObjective)
    grade, calls = AnswerGrader.grade, list[int]()

    def failing(self: AnswerGrader, answered: Sequence[Answered]) -> list[Grade]:
        calls.append(len(answered))
        if len(calls) == 5:
            raise VerifierFailed("no server for 10 minutes")
        return grade(self, answered)

    with monkeypatch.context() as patch, started_run(config, RlvrObjective) as run:
        patch.setattr(AnswerGrader, "grade", failing)
        calls.append(0)  # the evaluation of the initial weights
        assert not run.train() and isinstance(run.ended_by, StepNotDone)
        assert str(run.ended_by) == "step 3 was not done: no server for 10 minutes"
    _, steps = run_to_the_end(with_fields(config, training={"load": config.training.save}), RlvrObjective)
    assert steps == whole


def test_the_metrics_are_those_of_the_answers(config: RunConfig) -> None:
    _, steps = run_to_the_end(config, RlvrObjective)
    first = steps[0]
    assert first["solver/accuracy"] == first["solver/reward"] and 0 < first["solver/accuracy"] < 1
    assert first["solver/format"] == 1.0 and first["solver/truncated"] == first["solver/grader_errors"] == 0.0
    outcomes = [first[f"solver/groups_{each}"] for each in ("all_zero", "all_equal", "mixed", "all_one")]
    assert sum(outcomes) == 1.0 and first["solver/groups_learned_from"] == 4 * first["solver/groups_mixed"]
    assert first["solver/entropy"] > 0 and first["solver/gradient_share"] == 1.0
    assert [step["train/consumed_questions"] for step in steps] == [4.0, 8.0, 12.0, 16.0]
    assert not [name for name in first if name.startswith(("generator/", "predictor/"))]
    results = held_out(config)
    assert steps[1]["held_out/accuracy"] == pytest.approx(sum(results[1]["accuracy"]) / 8)
    assert len({json.dumps(result["accuracy"]) for result in results}) == 1, "scripted answers depend on seeds only"


def test_benchmarks_are_asked_on_the_way(config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def benchmark_metrics(self: RlvrObjective, iteration: int) -> dict[str, float]:
        asked.append(iteration)
        return {"benchmark/set": iteration / 10}

    monkeypatch.setattr(RlvrObjective, "benchmark_metrics", benchmark_metrics)
    _, steps = run_to_the_end(config, RlvrObjective)
    assert [step["benchmark/set"] for step in steps] == [0.1, 0.2, 0.3, 0.4]
    assert asked == [1, 2, 3, 4], "each step asks once"


def test_the_held_out_questions_are_never_trained_on(config: RunConfig, tmp_path: Path) -> None:
    """Both files have the same questions except one, so that every step repeats that question."""
    same = Path(config.questions.question_path[0]).read_text()
    Path(config.questions.valid_question_path[0]).write_text("".join(same.splitlines(keepends=True)[1:]))
    asked = with_fields(config, questions={"questions_per_step": 2}, training={"train_iters": 1, "eval_interval": 0})
    run_to_the_end(asked, RlvrObjective)
    assert set(ScriptedEngine.started[0].prompts) == {"Question: 1 + 2\nPut the answer into \\boxed{}.\nAnswer:"}


def test_as_many_questions_of_a_step_are_kept_to_read_as_the_settings_say(config: RunConfig) -> None:
    def kept(number: int) -> int:
        one = with_fields(config, training={"sampled_questions": number, "train_iters": 1, "eval_interval": 0})
        one = with_fields(one, training={"save": f"{config.training.save}-{number}"})
        run_to_the_end(one, RlvrObjective)
        lines = Path(one.training.save) / "samples.jsonl"
        return len(lines.read_text().splitlines()) if lines.exists() else 0

    assert [kept(number) for number in (0, 1, 3)] == [0, 1, 3]


def test_the_account_of_a_step_is_that_of_its_answers_and_updates(config: RunConfig) -> None:
    with started_run(with_fields(config, grpo={"grpo_kl_beta": 0.1}), RlvrObjective) as run:
        assert isinstance(run.objective, RlvrObjective)
        report = run.objective.algorithm.step(1)
        used = question_compute(report, run.objective.worker, run.objective.flop_counter)
    answers = report.rollouts[0].answers
    assert used.prefilled_tokens == sum(len(each.prompt_ids) for each in answers)
    assert used.sampled_tokens == sum(len(response.token_ids) for each in answers for response in each.responses)
    packed = sum(packed_length(group) for group in report.groups)
    assert (used.trained_tokens, used.scored_tokens) == (packed, packed)


def test_samples_to_read_show_each_question_with_its_answers(config: RunConfig) -> None:
    run_to_the_end(config, RlvrObjective)
    folder = Path(config.training.save)
    first = json.loads((folder / "samples.jsonl").read_text().splitlines()[0])
    assert first["iteration"] == 1 and len(first["answers"]) == 3
    assert {answer["right"] for answer in first["answers"]} <= {True, False}
    page = (folder / "samples/iter_0000001.md").read_text()
    assert first["question"] in page and "of 3 right" in page and "\\boxed{" in page


@pytest.mark.parametrize(
    ("questions", "complaint"),
    [
        ({"question_path": ()}, "--question-path is missing"),
        ({"questions_per_step": 9}, "has 8 questions, fewer than --questions-per-step 9"),
        ({"answer_field": "target"}, r"train\.jsonl:1: no field 'target'|held_out\.jsonl:1: no field 'target'"),
        ({"chat_template": True}, "has no chat template"),
        ({"question_template": "boxd"}, "--question-template boxd is none of boxed, short"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_one_line(
    questions: dict[str, Any], complaint: str, config: RunConfig
) -> None:
    with pytest.raises(BadInput, match=complaint), started_run(with_fields(config, questions=questions), RlvrObjective):
        pass


def test_a_resume_with_other_questions_is_refused(config: RunConfig, tmp_path: Path) -> None:
    run_to_the_end(with_fields(config, training={"train_iters": 2}), RlvrObjective)
    path = Path(config.questions.question_path[0])
    path.write_text(path.read_text() + '{"question": "7 + 7", "answer": 14}\n')
    with pytest.raises(BadInput, match="give the same"):
        run_to_the_end(with_fields(config, training={"load": config.training.save}), RlvrObjective)


def test_a_chat_template_keeps_the_questions_text_as_text(config: RunConfig) -> None:
    """The template's control tokens have control ids; a control token in a question does not."""
    from megatron_pz.algorithm.question_rollouts import QuestionPrompts
    from megatron_pz.question_answering.question import Question
    from megatron_pz.run.inputs import open_tokenizer

    tokenizer = open_tokenizer(config.model)
    end, name = tokenizer.eos_token_id, tokenizer.eos_token
    tokenizer.chat_template = "{{ eos_token }}{{ messages[0]['content'] }}{{ eos_token }}answer"
    template = Path(config.training.save).with_name("template.txt")
    template.write_text("{question}")
    settings = with_fields(config, questions={"chat_template": True, "question_template": str(template)}).questions
    ids = QuestionPrompts(settings, tokenizer).encode(Question("", "", "", f"a {name} b", "", ""))
    assert ids[0] == end and list(ids).count(end) == 2
    assert tokenizer.decode(ids) == f"{name}a {name} b{name}answer"
    for template_text, complaint in (("{{ raise_exception('no') }}", "fails: no"), ("hello", "does not show")):
        tokenizer.chat_template = template_text
        with pytest.raises(BadInput, match=complaint):
            QuestionPrompts(settings, tokenizer)


def test_questions_that_are_all_too_long_are_refused(config: RunConfig) -> None:
    short = with_fields(config, rollout={"max_prompt_length": 10})
    with pytest.raises(BadInput, match="no held-out question has a prompt within"), started_run(short, RlvrObjective):
        pass
    alone = with_fields(
        short, questions={"valid_question_path": ()}, training={"eval_interval": 0, "save": f"{config.training.save}-2"}
    )
    with pytest.raises(BadInput, match="none of 8 questions can be asked"):
        run_to_the_end(alone, RlvrObjective)
