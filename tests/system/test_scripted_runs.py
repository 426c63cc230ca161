"""Whole runs of the training loop on scripted engines: what each role learns from, and exact resumption."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from megatron_pz.algorithm.rollouts import Predictions, RolloutWorker
from megatron_pz.algorithm.step_metrics import step_compute, step_metrics
from megatron_pz.algorithm.step_samples import response_differences, step_samples
from megatron_pz.algorithm.word_entropy import word_entropies
from megatron_pz.config.schema import (
    RunConfig,
)
from megatron_pz.corpus.passages import Passage
from megatron_pz.monitoring.compute import FlopCounter
from megatron_pz.monitoring.samples import MaskSample
from megatron_pz.rl.packing import packed_length
from megatron_pz.roles.strategies import words_after_the_first
from megatron_pz.run.evaluation import held_out_passages
from megatron_pz.runtime.errors import BadInput
from tests.support.benchmark_files import write_gsm8k, write_mmlu_pro
from tests.support.scripted_run import (
    ScriptedEngine,
    played,
    run_config,
    run_to_the_end,
    started_run,
    weights_of,
    with_fields,
)
from tests.support.tiny_corpus import PASSAGES


@pytest.fixture
def config(tiny_corpus: str, tiny_llama_dir: Path, tmp_path: Path, scripted_engines: type[ScriptedEngine]) -> RunConfig:
    return run_config(tiny_llama_dir, tiny_corpus, tmp_path / "run")


def assert_resumes_exactly(config: RunConfig, folder: Path) -> list[dict[str, float]]:
    """Require equal metrics and weights, bit for bit, of an uninterrupted and a resumed run; return the metrics."""
    whole, steps = run_to_the_end(with_fields(config, training={"save": str(folder / "whole")}))
    parts = {"save": str(folder / "parts")}
    run_to_the_end(with_fields(config, training={**parts, "train_iters": 2}))
    resumed, steps_in_parts = run_to_the_end(with_fields(config, training={**parts, "load": parts["save"]}))
    assert steps_in_parts == steps
    before, after = weights_of(whole), weights_of(resumed)
    assert all(torch.equal(after[part][name], weight) for part in before for name, weight in before[part].items())
    return steps


def test_separate_policies_have_their_own_engines_and_resume_exactly(config: RunConfig, tmp_path: Path) -> None:
    separate = with_fields(
        config,
        game={"policy_sharing": "separate"},
        rollout={"generator_max_response_length": 20},
        optimizer={"generator_lr": 3e-3},
    )
    steps = assert_resumes_exactly(separate, tmp_path)
    for half in (steps[:2], steps[2:]):  # both roles have learned something in both halves
        assert all(sum(step[f"{role}/groups_learned_from"] for step in half) for role in ("generator", "predictor"))
    assert {(step["generator/lr"], step["predictor/lr"]) for step in steps} == {(3e-3, 1e-3)}
    generator, predictor = ScriptedEngine.started[:2]
    assert {prompt.split(":")[0] for prompt in generator.prompts} == {"Paragraph"}
    assert {prompt.split(":")[0] for prompt in predictor.prompts} == {"Passage"}
    assert (generator.limits, predictor.limits) == ({20}, {24})
    assert all(engine.closed for engine in ScriptedEngine.started)
    assert not any(torch.equal(weight, predictor.weights[name]) for name, weight in generator.weights.items())


@pytest.mark.parametrize("teacher", ["generator", "predictor"])
def test_a_roles_update_leaves_the_other_roles_weights_untouched(
    teacher: str, config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    separate = with_fields(config, game={"policy_sharing": "separate"}, training={"train_iters": 2})
    with started_run(separate) as run:
        start = weights_of(run)
        rollouts, groups = played(run).algorithm.gather_experience(1)
        only = [group for group in groups if group.role == teacher]
        assert only
        monkeypatch.setattr(played(run).algorithm, "gather_experience", lambda iteration: (rollouts, only))
        played(run).algorithm.step(1)
        now = weights_of(run)
    other = "predictor" if teacher == "generator" else "generator"
    assert all(torch.equal(weight, start[other][name]) for name, weight in now[other].items())
    assert not any(torch.equal(weight, start[teacher][name]) for name, weight in now[teacher].items())


def test_one_policy_learns_from_both_roles_and_has_one_engine(config: RunConfig, tmp_path: Path) -> None:
    run, steps = run_to_the_end(config)
    assert len(ScriptedEngine.started) == 1
    assert {learner.name for learner in played(run).learners} == {""}
    assert all(step["generator/tokens"] and step["predictor/tokens"] for step in steps)


@pytest.mark.parametrize("grpo", [{"updates_per_step": 2}, {}], ids=["minibatches", "drawn groups"])
def test_the_number_of_ranks_does_not_enter_what_is_learned(
    grpo: dict[str, object], config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two ranks process every other passage and mask, and exchange their results."""
    game = {"masks_per_passage": 4, "max_predictor_groups": 0 if grpo else 2}
    several = with_fields(config, grpo=grpo, game=game)
    run, steps = run_to_the_end(several)
    assert sum(step["predictor/groups_learned_from"] for step in steps) > 4
    monkeypatch.setattr(RolloutWorker, "from_all_ranks", lambda self, mine: [*mine[0::2], *mine[1::2]])
    of_two, steps_of_two = run_to_the_end(with_fields(several, training={"save": str(tmp_path / "two")}))
    for step, other in zip(steps, steps_of_two, strict=True):
        assert other == pytest.approx(step, rel=1e-6)
    before, after = weights_of(run)[""], weights_of(of_two)[""]
    assert all(torch.equal(after[name], weight) for name, weight in before.items())


def test_a_checkpoint_of_one_policy_is_not_one_of_two(config: RunConfig) -> None:
    run_to_the_end(with_fields(config, training={"train_iters": 2}))
    resumed = with_fields(
        config, game={"policy_sharing": "separate"}, training={"load": config.training.save, "train_iters": 4}
    )
    with pytest.raises(BadInput, match=r"one policy for both roles, this run has a policy of the generator and"):
        run_to_the_end(resumed)


def test_a_passive_warm_up_ends_after_its_steps_in_a_resumed_run_too(
    config: RunConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Three of four steps are passive, so that the run is resumed inside the warm-up."""
    warmed = with_fields(config, game={"passive_warmup_iters": 3, "warmup_mask_strategy": "random_span"})
    steps = assert_resumes_exactly(warmed, tmp_path)
    assert [step["train/active_masks"] for step in steps] == [0.0, 0.0, 0.0, 1.0]
    assert [step["generator/groups_learned_from"] > 0 for step in steps] == [False, False, False, True]
    assert all(step["predictor/groups_learned_from"] > 0 for step in steps)
    said = capsys.readouterr().out
    assert said.count("steps 1 to 3: masks by random_span") == 2
    assert said.count("steps 3 to 3: masks by random_span") == 1


def test_masks_by_entropy_hide_what_the_present_weights_find_hardest(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_entropy = with_fields(
        config, game={"mask_strategy": "entropy_next_token", "entropy_top_share": 0.01}, training={"train_iters": 1}
    )
    with started_run(by_entropy) as run:
        passages = [played(run).passages[index] for index in (0, 1)]
        entropies = word_entropies(played(run).learners[0].policy, played(run).tokenizer, passages, 100)
        monkeypatch.setattr(played(run).algorithm, "draw_passages", lambda: passages)
        played(run).algorithm.rollout(1, 0)
    asked = set(ScriptedEngine.started[0].prompts)
    expected = set()
    for passage, of_words in zip(passages, entropies, strict=True):
        hardest = words_after_the_first(passage.text)[max(range(len(of_words)), key=of_words.__getitem__)]
        expected.add(f"Passage: {passage.text[: hardest.start()]}[mask]\nMasked words:")
    assert asked == expected


@pytest.mark.parametrize("sharing", ["shared", "separate"])
def test_dynamic_sampling_draws_until_the_groups_suffice_and_resumes_at_the_cursor(
    sharing: str, config: RunConfig, tmp_path: Path
) -> None:
    drawing = with_fields(
        config,
        game={"dynamic_sampling": True, "max_sampling_rounds": 4, "policy_sharing": sharing, "masks_per_passage": 2},
    )
    steps = assert_resumes_exactly(drawing, tmp_path)
    rounds = [int(step["train/sampling_rounds"]) for step in steps]
    assert len(set(rounds)) > 1 and max(rounds) <= 4
    for step, draws in zip(steps, rounds, strict=True):
        enough = step["generator/groups_learned_from"] >= 2
        assert enough or draws == 4
    drawn = [step["train/consumed_passages"] for step in steps]
    assert drawn == [2.0 * sum(rounds[: index + 1]) for index in range(len(rounds))]


def test_samples_of_a_step_with_several_draws_show_the_predictions_of_their_own_draw(config: RunConfig) -> None:
    drawing = with_fields(config, game={"dynamic_sampling": True, "max_sampling_rounds": 3, "passages_per_step": 3})
    with started_run(drawing) as run:
        algorithm = played(run).algorithm
        algorithm.config = with_fields(drawing, game={"passages_per_step": 2})
        rollouts = [algorithm.rollout(1, draw) for draw in range(3)]
        samples = step_samples(rollouts, played(run).worker, most=2)
    predicted = [sample for sample in samples if sample.masked_passage]
    assert predicted
    for sample in predicted:
        assert sample.masked_passage.replace("[mask]", sample.span) == sample.passage


def test_ranks_exchange_what_is_shown_and_no_more(config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[Any] = []
    with started_run(with_fields(config, game={"passages_per_step": 3})) as run:
        report = played(run).algorithm.step(1)
        monkeypatch.setattr(played(run).worker, "from_all_ranks", lambda mine: sent.extend(mine) or mine)
        samples = step_samples(report.rollouts, played(run).worker, most=1)
    assert any(sample.predictions for sample in samples)
    predictions = [each for each in sent if isinstance(each, Predictions)]
    assert {each.mask.key[0] for each in predictions} == {0}
    assert [group.passage_index for group, _ in (each for each in sent if each not in predictions)] == [0]


def test_samples_tell_the_difference_of_what_was_learned_from(config: RunConfig) -> None:
    with started_run(with_fields(config, game={"passages_per_step": 3})) as run:
        report = played(run).algorithm.step(1)
        worker = played(run).worker
        samples = step_samples(report.rollouts, worker, 3, response_differences(report, worker))
    learned = {role: sum(group.role == role for group in report.groups) for role in ("generator", "predictor")}
    masks = {sample.predictions: sample for sample in samples if sample.predictions}
    for sample in masks.values():
        mixed = len({prediction.right for prediction in sample.predictions}) > 1
        assert all((prediction.log_prob_difference is not None) == mixed for prediction in sample.predictions)
        assert all(prediction.tokens > 0 for prediction in sample.predictions)
    of_passage: dict[str, list[MaskSample]] = defaultdict(list)
    for sample in samples:
        of_passage[sample.passage].append(sample)
        assert sample.tokens > 0 and sample.url.startswith("u")
    for group in of_passage.values():
        unequal = len({sample.reward for sample in group}) > 1
        assert all((sample.log_prob_difference is not None) == unequal for sample in group)
    assert learned["generator"] == sum(len({sample.reward for sample in group}) > 1 for group in of_passage.values())
    assert learned["predictor"] > 0


def test_passive_masks_are_kept_to_read(config: RunConfig) -> None:
    with started_run(with_fields(config, game={"mask_strategy": "random_span", "passages_per_step": 3})) as run:
        report = played(run).algorithm.step(1)
        samples = step_samples(report.rollouts, played(run).worker, most=2)
    assert len({sample.passage for sample in samples}) == 2
    for sample in samples:
        assert (sample.strategy, sample.response, sample.fault) == ("random_span", "", "")
        assert sample.masked_passage.replace("[mask]", sample.span or "") == sample.passage
        assert sample.predictions


def test_held_out_passages_wait_for_the_choice_without_their_tokens(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Passage] = []

    def choose(items: Iterable[Passage], *rest: Any) -> list[Passage]:
        seen.extend(items)
        return seen[:1]

    monkeypatch.setattr(held_out_passages, "choose", choose)
    with started_run(
        with_fields(config, data={"valid_data_path": config.data.data_path}, training={"eval_interval": 1})
    ):
        pass
    assert sorted(passage.text for passage in seen) == sorted(PASSAGES)
    assert {passage.token_ids for passage in seen} == {()}


def test_benchmarks_are_asked_between_steps_and_change_no_step(config: RunConfig, tmp_path: Path) -> None:
    data = write_gsm8k(write_mmlu_pro(tmp_path / "data"))
    asked = with_fields(
        config,
        training={
            "save": str(tmp_path / "asked"),
            "benchmark_interval": 2,
            "benchmarks": ("mmlu_pro", "gsm8k"),
            "benchmark_data": str(data),
            "benchmark_prompt_format": "plain",
            "benchmark_questions": 4,
        },
    )
    _, plain = run_to_the_end(config)
    _, steps = run_to_the_end(asked)
    names = [{name for name in step if name.startswith("benchmark/")} for step in steps]
    whole = {f"benchmark/{name}" for name in ("mmlu_pro", "gsm8k")}
    whole |= {f"{name}_{count}" for name in whole for count in ("unread", "truncated", "too_long")}
    assert names == [set(), whole, set(), whole]
    assert [{name: value for name, value in step.items() if name not in whole} for step in steps] == plain
    files = sorted(path.name for path in (tmp_path / "asked/benchmarks").iterdir())
    assert files == [f"{name}-000000{step}.parquet" for name in ("gsm8k", "mmlu_pro") for step in (2, 4)]
    answers = pq.read_table(tmp_path / "asked/benchmarks/mmlu_pro-0000002.parquet").to_pylist()
    assert len(answers) == 4
    right = [row["correct"] for row in answers]
    assert steps[1]["benchmark/mmlu_pro"] == sum(right) / 4


def test_the_loss_of_a_step_is_the_mean_over_its_updates(config: RunConfig) -> None:
    several = with_fields(config, grpo={"updates_per_step": 2, "grpo_iterations": 2}, game={"masks_per_passage": 4})
    with started_run(several) as run:
        report = played(run).algorithm.step(1)
        metrics = step_metrics(report, played(run).worker)
    losses = [update.statistics.pooled().loss for update in report.updates]
    assert len(losses) == 4 and len(set(losses)) > 1
    assert metrics["train/loss"] == pytest.approx(sum(losses) / 4)


def test_the_account_of_a_step_is_that_of_its_rollouts_and_updates(config: RunConfig, tiny_llama_dir: Path) -> None:
    paid = with_fields(config, grpo={"grpo_iterations": 2, "grpo_kl_beta": 0.1}, training={"train_iters": 1})
    with started_run(paid) as run:
        report = played(run).algorithm.step(1)
        work = step_compute(report, played(run).worker, FlopCounter(played(run).learners[0].policy.architecture))
    rollouts = [each for batch in report.rollouts for each in (*batch.proposals, *batch.predictions)]
    assert work.prefilled_tokens == sum(len(each.prompt_ids) for each in rollouts)
    assert work.sampled_tokens == sum(len(response.token_ids) for each in rollouts for response in each.responses)
    packed = sum(packed_length(group) for group in report.groups)
    assert (work.trained_tokens, work.scored_tokens) == (2 * packed, 2 * packed)
