"""The load-balancing loss of a mixture of experts has the gradient of the published formula."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

from megatron_pz.config.schema import GrpoConfig, ModelConfig, OptimizerConfig, RunConfig
from megatron_pz.rl.experience import MicroBatch, OldAndReferenceLogProbs
from megatron_pz.rl.losses import policy_loss
from megatron_pz.rl.packing import LossWeighting
from megatron_pz.rl.statistics import LossStatistics
from megatron_pz.trainer.policy import Policy
from megatron_pz.trainer.topology import Topology
from tests.support.packed_reference import random_groups

from megatron.core.transformer.moe.router import TopKRouter  # isort: skip

EXPERTS, CHOSEN = 4, 2


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model of one layer, so that only the balancing loss moves its router while the policy's loss is zero."""
    folder = tmp_path_factory.mktemp("mixture")
    torch.manual_seed(5)
    config = Qwen3MoeConfig(
        vocab_size=331,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        num_experts=EXPERTS,
        num_experts_per_tok=CHOSEN,
        moe_intermediate_size=24,
        norm_topk_prob=True,
        tie_word_embeddings=False,
    )
    Qwen3MoeForCausalLM(config).float().save_pretrained(folder)
    return folder


def no_loss(
    log_probs_R: torch.Tensor, entropy_R: torch.Tensor, batch: MicroBatch, frozen: OldAndReferenceLogProbs
) -> tuple[torch.Tensor, LossStatistics]:
    value, statistics = policy_loss(log_probs_R, entropy_R, batch, frozen, grpo=GrpoConfig(mismatch_correction="off"))
    return 0.0 * value, statistics


@pytest.mark.parametrize("coefficient", [0.0, 0.25])
def test_the_routers_gradient_is_that_of_the_switch_loss(coefficient: float, mixture: Path, topology: Topology) -> None:
    """The loss is coefficient x experts x sum of (share of choices) x (mean probability), as in the Switch model (Fedus
    et al., 2021, eq. 4) with several choices per token, averaged over the rows of a step."""
    config = RunConfig(
        model=ModelConfig(hf_model=str(mixture), bf16=False, moe_aux_loss_coeff=coefficient),
        optimizer=OptimizerConfig(clip_grad=1e9),
    )
    policy = Policy(config.model, config.parallel, config.optimizer, topology)
    groups = random_groups(331, [(20, (6, 9, 4)), (15, (5, 7))], seed=3)
    rows = policy.micro_batches(groups, LossWeighting.of(groups, "sequence_mean", 16), 40)
    assert len(rows) == 2
    (router,) = (module for module in policy.chunks[0].modules() if isinstance(module, TopKRouter))
    seen: list[torch.Tensor] = []
    router.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach().flatten(0, 1)))
    weight = router.weight.detach().clone().requires_grad_()
    policy.update(rows, no_loss, 0.0)

    losses = []
    for hidden in seen:
        probabilities = torch.softmax(hidden @ weight.t(), -1)
        chosen = torch.zeros_like(probabilities).scatter(1, probabilities.topk(CHOSEN).indices, 1.0)
        shares = chosen.sum(0) / chosen.sum()
        losses.append(coefficient * EXPERTS * (shares * probabilities.mean(0)).sum())
    torch.stack(losses).mean().backward()
    assert len(seen) == 2
    assert (weight.grad.abs().max() > 1e-4) == (coefficient > 0)
    torch.testing.assert_close(router.weight.main_grad, weight.grad, rtol=1e-4, atol=1e-8)
