"""Compare update tokens per CPU-second of the Megatron model with Hugging Face transformers on the same input.

    python -m benchmarks.training.megatron_vs_transformers --hf-model DIR [--precision fp32|bf16] [--repeats 2]

There are two inputs. ``batch``: 8 sequences of 324 tokens, with plain causal attention on both sides. ``packed``: one
group of 8 responses of 60 tokens after one prompt of 300, for which transformers gets the same tokens and positions and
an attention mask. Both sides compute log-probabilities only of the response tokens, in float32, and the same loss, clip
gradients and step AdamW (torch's on both sides, moments in float32; in bf16 Megatron has float32 master weights, and
transformers gets a copy for them). Attention is sdpa, on one thread in one process. The log-probabilities of both sides
are also compared.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from benchmarks.common.cpu import compared, require_positive, write_result
from benchmarks.gpu.update_rate import random_groups
from benchmarks.training.padded import one_row_each, padded_batch, padded_policy
from megatron_pz.config.command_line import Parser
from megatron_pz.config.schema import GrpoConfig, ModelConfig, OptimizerConfig, ParallelConfig
from megatron_pz.rl.experience import MicroBatch, OldAndReferenceLogProbs
from megatron_pz.rl.losses import policy_loss
from megatron_pz.rl.packing import LossWeighting
from megatron_pz.runtime.errors import exits_with_one_line
from megatron_pz.trainer.policy import Policy
from megatron_pz.trainer.topology import Topology

SAMPLES, PROMPT, RESPONSE = 8, 300, 60
BATCH_RESPONSE = 24
ADAM = OptimizerConfig(lr=1e-9)
GOAL = 0.95


class TransformersSide:
    """A minimal, hand-written training loop with transformers."""

    def __init__(self, model_dir: str, dtype: torch.dtype) -> None:
        self.model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=dtype, attn_implementation="sdpa").train()
        self.weights = list(self.model.parameters())
        self.masters = [weight.detach().float().clone() for weight in self.weights] if dtype != torch.float32 else None
        betas = (ADAM.adam_beta1, ADAM.adam_beta2)
        self.optimizer = torch.optim.AdamW(
            self.masters or self.weights, ADAM.lr, betas, ADAM.adam_eps, weight_decay=0.0
        )

    def log_probs(
        self, tokens: Tensor, positions: Tensor, mask: Tensor | None, logit_index_R: Tensor, labels_R: Tensor
    ) -> Tensor:
        states = self.model.model(input_ids=tokens, position_ids=positions, attention_mask=mask, use_cache=False)
        logits_RV = self.model.lm_head(states.last_hidden_state.flatten(0, 1)[logit_index_R])
        return logits_RV.float().log_softmax(-1).gather(1, labels_R[:, None])[:, 0]

    def update(self, forward: Callable[[], Tensor], loss: Callable[[Tensor], Tensor]) -> None:
        loss(forward()).backward()
        if self.masters is not None:
            for master, weight in zip(self.masters, self.weights, strict=True):
                master.grad = weight.grad.float()
                weight.grad = None
        torch.nn.utils.clip_grad_norm_(self.masters or self.weights, ADAM.clip_grad)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.masters is not None:
            with torch.no_grad():
                for master, weight in zip(self.masters, self.weights, strict=True):
                    weight.copy_(master)


def sees(segments_2S: Tensor) -> Tensor:
    """Return bool [1, 1, S, S]: whether a query (row) attends to a key (column), by the rules of a packed row."""
    group_S, response_S = segments_2S
    places = torch.arange(segments_2S.size(1))
    same_group = group_S[:, None] == group_S[None]
    prompt_or_own = (response_S[None] == 0) | (response_S[None] == response_S[:, None])
    return (same_group & prompt_or_own & (places[None] <= places[:, None]))[None, None]


@exits_with_one_line
def main() -> None:
    flags = Parser(__doc__.split("\n")[0])
    flags.add_argument("--hf-model", required=True)
    flags.add_argument("--precision", choices=["bf16", "fp32"], default="fp32")
    flags.add_argument("--repeats", type=int, default=2)
    given = flags.parse_args(sys.argv[1:])
    require_positive(given, "repeats")
    torch.set_num_threads(1)
    topology = Topology.start(ParallelConfig(), seed=1)
    bf16 = given.precision == "bf16"
    policy = Policy(ModelConfig(hf_model=given.hf_model, bf16=bf16), ParallelConfig(), ADAM, topology)
    theirs = TransformersSide(given.hf_model, torch.bfloat16 if bf16 else torch.float32)
    grpo_loss = partial(policy_loss, grpo=GrpoConfig(mismatch_correction="off"))
    figures: dict[str, float] = {}

    def ours(rows: list[MicroBatch]) -> None:
        policy.update(rows, grpo_loss, ADAM.lr)

    def by_hand(batch: MicroBatch, tokens: Tensor, positions: Tensor, mask: Tensor | None) -> None:
        theirs.update(
            lambda: theirs.log_probs(tokens, positions, mask, batch.logit_index_R, batch.labels_R),
            lambda log_probs_R: grpo_loss(log_probs_R, torch.zeros_like(log_probs_R), batch, OldAndReferenceLogProbs())[
                0
            ],
        )

    for name, response in (("batch", BATCH_RESPONSE), ("packed", RESPONSE)):
        groups = random_groups(
            policy.architecture.vocab_size, prompt=PROMPT, response=response, responses=SAMPLES, count=1
        )
        (row,) = one_row_each(policy, groups, LossWeighting.of(groups, "sequence_mean", max_response_length=response))
        if name == "packed":
            tokens, positions, mask = row.tokens_S[None], row.positions_S[None], sees(row.segments_2S)
            work = {"megatron": partial(ours, [row])}
        else:
            batch = padded_batch(groups[0], row)
            tokens, positions, mask = batch.tokens_S.view(SAMPLES, -1), batch.positions_S.view(SAMPLES, -1), None

            def ours_padded(batch: MicroBatch = batch) -> None:
                with padded_policy(policy, SAMPLES):
                    ours([batch])

            work = {"megatron": ours_padded}
            row = batch
        work["transformers"] = partial(by_hand, row, tokens, positions, mask)
        with torch.no_grad(), nullcontext() if name == "packed" else padded_policy(policy, SAMPLES):
            apart_R = policy.log_probs([row])[0] - theirs.log_probs(
                tokens, positions, mask, row.logit_index_R, row.labels_R
            )
        figures[f"{name}: |log p megatron - log p transformers|, mean"] = float(apart_R.abs().mean())
        seconds = compared(work, repeats=given.repeats)
        for side, taken in seconds.items():
            figures[f"{name}: {side}, tokens a CPU-second"] = tokens.numel() / taken
        figures[f"{name}: megatron / transformers (goal {GOAL})"] = seconds["transformers"] / seconds["megatron"]
    write_result(f"megatron_vs_transformers_{given.precision}", vars(given), figures)
    topology.close()


if __name__ == "__main__":
    main()
