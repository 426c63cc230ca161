"""Every parallel layout trains as one process does: equal losses, norms, entropies, log-probabilities and weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedConfig, Qwen3Config, Qwen3MoeConfig, SmolLM3Config

from megatron_pz.config.schema import ParallelConfig
from tests.conftest import TINY_VOCAB_SIZE
from tests.distributed.workers.layout_parity import Outcome, one_process, run_layouts
from tests.support.forked_ranks import ForkedRanks

TENSOR = {"tensor_model_parallel_size": 2}
SEQUENCE = {**TENSOR, "sequence_parallel": True}
PIPELINE = {"pipeline_model_parallel_size": 2}
INTERLEAVED = {**PIPELINE, "virtual_pipeline_model_parallel_size": 2}
CONTEXT = {"context_parallel_size": 2}
EXPERT = {"expert_model_parallel_size": 2}
SHARDED = {"use_distributed_optimizer": True}
OVERLAPPED = {**SHARDED, "overlap_grad_reduce": True, "overlap_param_gather": True}
RECOMPUTED = {"recompute_granularity": "full"}

Layouts = dict[str, dict[str, Any]]

# nproc -> layouts of each model (see models); the remaining ranks are data parallel
LAYOUTS: dict[int, tuple[Layouts, Layouts, Layouts]] = {
    2: (
        {
            "tensor": TENSOR,
            "tensor+sequence": SEQUENCE,
            "pipeline": PIPELINE,
            "pipeline, uneven": {**PIPELINE, "decoder_first_pipeline_num_layers": 1},
            "pipeline, interleaved": INTERLEAVED,
            "data": {},
            "data, sharded optimizer": SHARDED,
            "data, reduction overlapped": {"overlap_grad_reduce": True},
            "data, sharded and overlapped": OVERLAPPED,
            "context": CONTEXT,
            "data, recomputed": RECOMPUTED,
            "tensor+sequence, two layers recomputed": {
                **SEQUENCE,
                **RECOMPUTED,
                "recompute_method": "block",
                "recompute_num_layers": 2,
            },
            "context, core attention recomputed": {**CONTEXT, "recompute_granularity": "selective"},
            "data, padded for FP8": {"packed_length_multiple": 16},
        },
        {
            "experts": EXPERT,
            "experts, whole matrices on tensor ranks": {**SEQUENCE, **EXPERT, "expert_tensor_parallel_size": 1},
            "tensor+sequence in experts too": SEQUENCE,
            "experts over context ranks": {**CONTEXT, **EXPERT},
            "pipeline": PIPELINE,
            "data, first layers recomputed": {**RECOMPUTED, "recompute_method": "block", "recompute_num_layers": 2},
            "pipeline, interleaved, recomputed": {**INTERLEAVED, **RECOMPUTED},
        },
        {
            "tensor+sequence": SEQUENCE,
            "pipeline": PIPELINE,
            "pipeline, interleaved": {**INTERLEAVED, **SHARDED},
            "context": CONTEXT,
        },
    ),
    4: (
        {
            "tensor x pipeline": {**TENSOR, **PIPELINE},
            "tensor+sequence x data": {**SEQUENCE, **SHARDED},
            "tensor+sequence x context": {**SEQUENCE, **CONTEXT},
            "pipeline x context, recomputed": {**PIPELINE, **CONTEXT, **RECOMPUTED},
            "interleaved x data, overlapped": {**INTERLEAVED, **OVERLAPPED},
            "context of four": {"context_parallel_size": 4},
        },
        {
            "experts x sharded optimizer": {**EXPERT, **SHARDED},
            "experts x tensor+sequence": {**EXPERT, **SEQUENCE},
            "experts x interleaved": {**EXPERT, **INTERLEAVED},
            "experts, their matrices over data ranks": {**EXPERT, "expert_tensor_parallel_size": 2},
        },
        {},
    ),
    8: ({"tensor+sequence x pipeline x context": {**SEQUENCE, **PIPELINE, **CONTEXT}}, {}, {}),
}
SIZES = {
    "vocab_size": TINY_VOCAB_SIZE,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "initializer_range": 0.1,
    "tie_word_embeddings": False,
}


def save_random_model(config: PreTrainedConfig, folder: Path) -> Path:
    """Write a Hugging Face checkpoint of random float32 weights, which are the same every time."""
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng():
        torch.manual_seed(3)
        AutoModelForCausalLM.from_config(config).float().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """Return a dense Qwen3, a mixture of four experts without experts in its second layer, and a tied SmolLM3 without
    RoPE in its third layer.
    """
    mixture = Qwen3MoeConfig(
        **SIZES,
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=32,
        norm_topk_prob=True,
        mlp_only_layers=[1],
    )
    partly_rotary = SmolLM3Config(
        **SIZES | {"tie_word_embeddings": True},
        no_rope_layers=[1, 1, 0, 1],
        pad_token_id=None,
        bos_token_id=None,
        eos_token_id=None,
    )
    configs = {"dense": Qwen3Config(**SIZES), "mixture": mixture, "smollm3": partly_rotary}
    folder = tmp_path_factory.mktemp("models")
    dense, sparse, smollm3 = (save_random_model(config, folder / name) for name, config in configs.items())
    return dense, sparse, smollm3


@pytest.fixture(scope="module")
def expected(models: tuple[Path, Path, Path]) -> tuple[Outcome, ...]:
    return tuple(one_process(model) for model in models)


@pytest.mark.parametrize("nproc", LAYOUTS)
def test_four_updates_are_those_of_one_process(
    nproc: int, models: tuple[Path, Path, Path], expected: tuple[Outcome, ...], tmp_path: Path
) -> None:
    cases = [
        (f"{model.name}: {name}", str(model), ParallelConfig(**layout))
        for model, layouts in zip(models, LAYOUTS[nproc], strict=True)
        for name, layout in layouts.items()
    ]
    by_model = dict(zip((model.name for model in models), expected, strict=True))
    require_same_outcomes(nproc, cases, lambda name: by_model[name.partition(":")[0]], tmp_path)


def test_experts_are_balanced_alike_wherever_a_row_lies(models: tuple[Path, Path, Path], tmp_path: Path) -> None:
    """The balancing loss is computed per row, so it is equal in layouts with the same padding of a row."""
    layouts = {
        "tensor+sequence": {**SEQUENCE, "packed_length_multiple": 4},
        "context": {**CONTEXT, "packed_length_multiple": 2},
        "experts over context ranks": {**CONTEXT, **EXPERT, "packed_length_multiple": 2},
        "pipeline": {**PIPELINE, "packed_length_multiple": 4},
    }
    cases = [(name, str(models[1]), ParallelConfig(**layout)) for name, layout in layouts.items()]
    alone = one_process(models[1], ParallelConfig(packed_length_multiple=4), moe_aux_loss_coeff=0.5)
    unbalanced = one_process(models[1], ParallelConfig(packed_length_multiple=4))
    assert compare(alone, unbalanced)["weights"] > 1e2 * TOLERANCE
    require_same_outcomes(2, cases, lambda name: alone, tmp_path, moe_aux_loss_coeff=0.5)


def require_same_outcomes(
    nproc: int,
    cases: list[tuple[str, str, ParallelConfig]],
    expected: Callable[[str], Outcome],
    folder: Path,
    moe_aux_loss_coeff: float = 0.0,
) -> None:
    """Run the cases (see :func:`run_layouts`); each outcome must equal ``expected`` for its name."""
    with ForkedRanks(nproc, run_layouts, cases, str(folder), moe_aux_loss_coeff) as ranks:
        assert ranks.codes(timeout=240) == [0] * nproc, ranks.output()
    failures = []
    for name, *_ in cases:
        outcome = Outcome(**torch.load(folder / f"{name}.pt", weights_only=False))
        differences = compare(outcome, expected(name))
        print(f"{nproc} ranks, {name:50}", *(f"{what} {value:.0e}" for what, value in differences.items()))
        failures += [f"{name}: {what} {value:.1e}" for what, value in differences.items() if not value <= TOLERANCE]
        if outcome.routing != expected(name).routing:
            failures.append(f"{name}: experts replayed {outcome.routing}, expected {expected(name).routing}")
    assert not failures, "\n".join(failures)


TOLERANCE = 1e-5


def compare(outcome: Outcome, expected: Outcome) -> dict[str, float]:
    """Return the largest differences: absolute for the loss, in nats for log-probabilities, otherwise relative."""
    assert outcome.initial_log_probs.keys() == expected.initial_log_probs.keys()
    assert outcome.weights.keys() == expected.weights.keys()
    return {
        "losses": max(abs(a - b) for a, b in zip(outcome.losses, expected.losses, strict=True)),
        "norms": max(abs(a / b - 1) for a, b in zip(outcome.grad_norms, expected.grad_norms, strict=True)),
        "entropies": max(abs(a / b - 1) for a, b in zip(outcome.entropies, expected.entropies, strict=True)),
        "log-probs before": _greatest(outcome.initial_log_probs, expected.initial_log_probs),
        "log-probs after": _greatest(outcome.final_log_probs, expected.final_log_probs),
        "weights": max(
            ((outcome.weights[name] - weight).norm() / weight.norm()).item()
            for name, weight in expected.weights.items()
        ),
    }


def _greatest(ours: dict, expected: dict) -> float:
    return max((ours[response] - values).abs().max().item() for response, values in expected.items())


def test_the_updates_are_not_small(models: tuple[Path, Path, Path], expected: tuple[Outcome, ...]) -> None:
    """Updates move weights and log-probabilities by a hundred times the tolerance; the comparison is meaningful."""
    from safetensors.torch import load_file

    for model, outcome in zip(models, expected, strict=True):
        for name, before in load_file(model / "model.safetensors").items():
            assert (outcome.weights[name] - before).norm() > 1e2 * TOLERANCE * before.norm(), name
        moved = _greatest(outcome.final_log_probs, outcome.initial_log_probs)
        assert moved > 0.1 and max(outcome.grad_norms) > 0.05
    assert [outcome.routing[0][0] > outcome.routing[0][1] > 0 for outcome in expected] == [False, True, False]
