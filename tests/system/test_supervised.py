"""Supervised runs: both baselines against transformers, resumption, and the cold start as one source."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from megatron.core import parallel_state
from transformers import AutoModelForCausalLM

from megatron_pz.config.parse import parse_run_config
from megatron_pz.config.schema import RunConfig
from megatron_pz.config.validate_parallel import PackedShape
from megatron_pz.corpus.passages import PassageBlend
from megatron_pz.rl.experience import MicroBatch
from megatron_pz.run import baselines
from megatron_pz.run.baselines import MaskExamples, PassageExamples, baseline
from megatron_pz.run.cold_start import TeachingExamples, cold_start
from megatron_pz.run.inputs import open_passages, open_tokenizer
from megatron_pz.run.objective import MakeObjective, Schedule
from megatron_pz.run.run import run as run_objective
from megatron_pz.run.supervised import SupervisedObjective
from megatron_pz.runtime.errors import BadInput
from megatron_pz.runtime.watchdog import Watchdog
from megatron_pz.trainer import policy as policy_module
from megatron_pz.trainer.policy import Policy, UpdateResult
from megatron_pz.trainer.topology import Topology
from tests.support.scripted_run import run_config, run_to_the_end, with_fields
from tests.support.tiny_corpus import PASSAGES, write_corpus

RATE = 1e-3
Source = type[PassageExamples] | type[TeachingExamples]


@pytest.fixture
def config(tiny_corpus: str, tiny_llama_dir: Path, tmp_path: Path) -> RunConfig:
    return with_fields(
        run_config(tiny_llama_dir, tiny_corpus, tmp_path / "run"),
        game={"passages_per_step": 3, "masks_per_passage": 2, "mask_strategy": "random_span"},
        optimizer={"lr": RATE, "clip_grad": 1e6},
        training={"micro_batch_tokens": 200},
    )


def run(config: RunConfig, source: Source) -> list[dict[str, Any]]:
    """Run to the end; return the run and the metrics of its steps without times."""

    def objective(config: RunConfig, topology: Topology, watchdog: Watchdog) -> SupervisedObjective:
        return SupervisedObjective(config, topology, source.from_config, lambda step: RATE)

    try:
        run_objective(config, Schedule.from_config(config.training), objective)
    finally:
        if dist.is_initialized():  # a refused run
            parallel_state.destroy_model_parallel()
            dist.destroy_process_group()
    lines = (Path(config.training.save) / "metrics.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if not key.startswith("time/")} for line in lines]


def exported(save: str | Path) -> dict[str, torch.Tensor]:
    return dict(AutoModelForCausalLM.from_pretrained(Path(save) / "hf", dtype=torch.float32).named_parameters())


def to(config: RunConfig, **training: object) -> RunConfig:
    return with_fields(config, training=training)


@torch.no_grad()
def likelihood(model: torch.nn.Module, prompt: list[int], target: list[int]) -> float:
    """Return the sum of the target's negative log-probabilities."""
    tokens = torch.tensor([prompt + target])
    log_probs = model(tokens).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
    return -log_probs.gather(1, torch.tensor(target)[:, None]).sum().item()


def passages_of(config: RunConfig) -> PassageBlend:
    return open_passages(config.data, config.model, config.game.passages_per_step)


def first_step(config: RunConfig, source: type[PassageExamples]) -> Any:
    tokenizer = open_tokenizer(config.model)
    (term,) = source.from_config(config, tokenizer, passages_of(config), None).step()
    return term, tokenizer


def test_a_corpus_that_teaches_nothing_is_refused_and_not_searched_forever(
    config: RunConfig, tiny_tokenizer_dir: Path, tmp_path: Path
) -> None:
    barren = write_corpus(tmp_path / "barren", tiny_tokenizer_dir, [["of the and in of the"], ["It is a [mask]."]])
    config = with_fields(config, data={"data_path": (barren,)}, game={"passages_per_step": 1})
    maker = TeachingExamples(config.cold_start, config.game, open_tokenizer(config.model), passages_of(config))
    with pytest.raises(BadInput, match="has a word to mask"):
        maker.step()


def test_a_cold_start_does_not_resume(config: RunConfig) -> None:
    with pytest.raises(BadInput, match="--load old: a cold start keeps no checkpoints"):
        cold_start(to(config, load="old"))


def test_continued_pretraining_is_the_next_token_loss_of_whole_passages(config: RunConfig) -> None:
    (step, *_) = run(to(config, train_iters=1), PassageExamples)
    groups, tokenizer = first_step(config, PassageExamples)
    texts = [tokenizer.decode(group.prompt_ids + group.responses[0].token_ids) for group in groups]
    assert len(texts) == 3 and set(texts) < set(PASSAGES)
    model = AutoModelForCausalLM.from_pretrained(config.model.hf_model, dtype=torch.float32)
    ids = [tokenizer.encode(text) for text in texts]
    tokens = sum(len(each) - 1 for each in ids)
    expected = sum(likelihood(model, each[:1], each[1:]) for each in ids) / tokens
    assert step["train/loss"] == pytest.approx(expected, rel=1e-5)
    assert step["compute/trained_tokens"] == tokens + 3
    assert step["compute/sampled_tokens"] == 0
    assert step["train/responses"] == 3


def test_supervised_masks_ask_the_predictors_question_and_teach_the_bare_answer(config: RunConfig) -> None:
    (step, *_) = run(to(config, train_iters=1), MaskExamples)
    groups, tokenizer = first_step(config, MaskExamples)
    assert len(groups) == 6
    total, tokens = 0.0, 0
    model = AutoModelForCausalLM.from_pretrained(config.model.hf_model, dtype=torch.float32)
    for group in groups:
        prompt, response = tokenizer.decode(group.prompt_ids), tokenizer.decode(group.responses[0].token_ids)
        assert prompt.startswith("Passage: ") and prompt.endswith("\nMasked words:")
        span = response.removeprefix(" \\boxed{").removesuffix("}")
        passage = prompt.removeprefix("Passage: ").removesuffix("\nMasked words:").replace("[mask]", span)
        assert passage in PASSAGES
        total += likelihood(model, list(group.prompt_ids), list(group.responses[0].token_ids))
        tokens += len(group.responses[0].token_ids)
    assert step["train/loss"] == pytest.approx(total / tokens, rel=1e-5)


@pytest.mark.parametrize("source", [PassageExamples, MaskExamples, TeachingExamples])
def test_resume_is_exact_and_the_loss_falls(source: Source, config: RunConfig, tmp_path: Path) -> None:
    steps = run(to(config, save=str(tmp_path / "whole")), source)
    parts = str(tmp_path / "parts")
    run(to(config, save=parts, train_iters=2), source)
    assert run(to(config, save=parts, load=parts), source) == steps
    whole, resumed = exported(tmp_path / "whole"), exported(parts)
    assert all(torch.equal(resumed[name], weight) for name, weight in whole.items())
    assert [step["iteration"] for step in steps] == [1, 2, 3, 4]
    assert steps[-1]["train/loss"] < steps[0]["train/loss"]
    assert steps[3]["compute/flops"] > steps[0]["compute/flops"] > 0


def test_a_run_of_another_kind_is_not_resumed(config: RunConfig, scripted_engines: type, tmp_path: Path) -> None:
    """The weights fit, but the rest of the state does not."""
    supervised, played = str(tmp_path / "supervised"), str(tmp_path / "played")
    run(to(config, save=supervised, train_iters=2), PassageExamples)
    run_to_the_end(to(config, save=played, train_iters=2))
    with pytest.raises(BadInput, match="is not of a run of this kind"):
        run_to_the_end(to(config, save=str(tmp_path / "one"), load=supervised))
    with pytest.raises(BadInput, match="is not of a run of this kind"):
        run(to(config, save=str(tmp_path / "other"), load=played), PassageExamples)


def test_a_run_of_another_objective_is_not_resumed(config: RunConfig, tmp_path: Path) -> None:
    passages = str(tmp_path / "passages")
    run(to(config, save=passages, train_iters=1), PassageExamples)
    with pytest.raises(BadInput, match="holds a run of --objective continue_pt, not sft_mask"):
        masks = with_fields(config, supervised={"objective": "sft_mask"})
        run(to(masks, save=str(tmp_path / "masks"), load=passages), MaskExamples)


def test_parts_meet_in_one_optimizer_step(config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The interleaved schedule needs rows of one length; each part was packed and padded separately."""
    once = to(config, train_iters=1, micro_batch_tokens=40)
    expected = run(once, TeachingExamples)
    seen: list[set[int]] = []
    update = Policy.update

    def spied(policy: Policy, rows: list[MicroBatch], *rest: Any) -> UpdateResult:
        seen.append({row.tokens_S.numel() for row in rows})
        return update(policy, rows, *rest)

    monkeypatch.setattr(Policy, "update", spied)
    run(to(once, save=f"{config.training.save} again"), TeachingExamples)
    monkeypatch.setattr(policy_module, "packed_shape", lambda _: PackedShape(equal_lengths=True))
    (step,) = run(to(once, save=f"{config.training.save} padded"), TeachingExamples)
    assert [len(lengths) > 1 for lengths in seen] == [True, False]
    assert step == pytest.approx(expected[0], rel=1e-5)


def test_one_step_is_that_of_torchs_adamw(config: RunConfig) -> None:
    smooth = with_fields(config, optimizer={"adam_eps": 1e-2})
    run(to(smooth, train_iters=1), PassageExamples)
    groups, _ = first_step(config, PassageExamples)
    model = AutoModelForCausalLM.from_pretrained(config.model.hf_model, dtype=torch.float32)
    start = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    adamw = torch.optim.AdamW(model.parameters(), RATE, (0.9, 0.95), 1e-2, weight_decay=0.0)
    losses = []
    for group in groups:
        ids = torch.tensor([group.prompt_ids + group.responses[0].token_ids])
        losses.append(torch.nn.functional.cross_entropy(model(ids).logits[0, :-1], ids[0, 1:], reduction="sum"))
    (sum(losses) / sum(len(group.responses[0].token_ids) for group in groups)).backward()
    adamw.step()
    for name, weight in exported(config.training.save).items():
        target = dict(model.named_parameters())[name]
        assert (weight - target).norm() <= 1e-3 * (target - start[name]).norm() > 0, name


def test_supervised_masks_without_a_passive_strategy_are_refused(config: RunConfig) -> None:
    active = with_fields(config, game={"mask_strategy": "active"})
    with pytest.raises(BadInput, match="has no generator"):
        run(active, MaskExamples)


def test_the_objective_that_is_named_trains_by_the_schedule_of_the_flags(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    started: list[tuple[Schedule, MakeObjective]] = []
    monkeypatch.setattr(baselines, "run", lambda config, schedule, objective: started.append((schedule, objective)))
    monkeypatch.setattr(baselines, "SupervisedObjective", lambda config, topology, examples, rate: (examples, rate))
    flags = ["--hf-model", config.model.hf_model, "--data-path", *config.data.data_path, "--save", str(tmp_path / "x")]
    flags += ["--train-iters", "7", "--save-interval", "5", "--lr", "0.5", "--lr-decay-style", "linear", "--objective"]
    for name, source in (("continue_pt", PassageExamples), ("sft_mask", MaskExamples)):
        baseline(parse_run_config([*flags, name], "baselines"))
        schedule, objective = started.pop()
        assert (schedule.iterations, schedule.save_interval, schedule.seed) == (7, 5, 1234)
        made: Any = objective(config, None, None)  # type: ignore[arg-type]
        examples, rate = made
        assert examples == source.from_config
        assert (rate(0), rate(7)) == (0.5, 0.0)
