"""Measure TRL's side: its unmodified GRPOTrainer, with its fastest settings on a CPU.

python -m benchmarks.rl_step.trl_side WORK.json OUTCOME.json {float32|bfloat16} {generate|vllm|vllm-patched}

``float32`` weights are used under bf16 autocast, which corresponds to this project's float32 master weights;
``bfloat16`` weights are updated in bf16, which is faster but loses updates below a weight's rounding. ``vllm-patched``
replaces the transfer of weights into vLLM, which fails on a CPU because vLLM has packed the weights.
"""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset  # type: ignore[import-not-found]
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback
from trl import GRPOConfig, GRPOTrainer  # type: ignore[import-not-found]

from benchmarks.rl_step.work import Outcome, Step, Work, files_of_side, reward
from megatron_pz.rollout.cpu.tied_head import renew_tied_head

COMPARED_SEQUENCES = 16
"""Number of sequences of the last rollout for the difference of log-probabilities."""

Sampled = tuple[list[list[int]], list[list[int]], list[list[float]]]
"""Prompt ids, response ids, log-probabilities."""


class MeasuredTrainer(GRPOTrainer):
    """GRPOTrainer with measurements for :class:`Step` at the boundaries of its parts."""

    def __init__(self, *, patched: bool, **settings: Any) -> None:
        self.step = Step()
        self.experience_seconds = 0.0
        """CPU-seconds from prompts to advantages; the rest of a step is the update."""
        self.last_rollout: Sampled | None = None
        super().__init__(**settings)
        if self.use_vllm:
            self.transfer = self.repacking_transfer if patched else self.vllm_generation.sync_weights
            self.vllm_generation.sync_weights = self.measured_transfer

    def repacking_transfer(self) -> None:
        """Transfer weights by vLLM's own reload, which repacks them, and this project's repair of a tied head."""
        llm = self.vllm_generation.llm
        stream = self.vllm_generation._iter_named_params()
        llm.collective_rpc("reload_weights", kwargs={"weights_iterator": stream})
        llm.apply_model(renew_tied_head)
        llm.reset_prefix_cache()

    def measured_transfer(self) -> None:
        """Measure TRL's weight transfer, which happens just before sampling."""
        with self.step.phase("sync"):
            self.transfer()

    def _generate_single_turn(self, prompt_ids: list[list[int]], *args: Any, **settings: Any) -> Any:
        with self.step.phase("rollout"):
            responses, log_probs = super()._generate_single_turn(prompt_ids, *args, **settings)
        self.step.phases["rollout"] -= self.step.phases["sync"]
        self.step.prompt_tokens = sum(map(len, prompt_ids[:: self.num_generations]))
        self.step.response_tokens = sum(map(len, responses))
        self.step.trained_responses = len(responses)
        if log_probs is not None:
            chosen = slice(0, None, max(1, len(responses) // COMPARED_SEQUENCES))
            self.last_rollout = (prompt_ids[chosen], responses[chosen], log_probs[chosen])
        return responses, log_probs

    def _generate_and_score_completions(self, *args: Any, **settings: Any) -> Any:
        before = time.process_time()
        experience = super()._generate_and_score_completions(*args, **settings)
        self.experience_seconds = time.process_time() - before
        return experience


class StepCallback(TrainerCallback):
    """Divides the run into steps."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.trainer: MeasuredTrainer
        self.measuring: AbstractContextManager[None]

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Start the clock of a step when its batch of prompts is ready."""
        step = self.trainer.step = Step()
        self.measuring = step.measured()
        self.measuring.__enter__()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Stop the clock of a step after the optimizer's update."""
        self.measuring.__exit__(None, None, None)
        step = self.trainer.step
        step.phases["update"] = step.cpu_seconds - self.trainer.experience_seconds
        self.steps.append(step)


def rewards(prompts: list[str], completions: list[str], **_: Any) -> list[float]:
    """Compute the work's reward with TRL's arguments."""
    return [reward(prompt, completion) for prompt, completion in zip(prompts, completions, strict=True)]


def end_tokens(stop: tuple[str, ...], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """List the tokens that end a response, including the model's end: TRL's own generation has no stop strings."""
    ends = [token for token in range(len(tokenizer)) if any(text in tokenizer.decode([token]) for text in stop)]
    return [tokenizer.eos_token_id, *ends]


def grpo_settings(work: Work, rollout: str, folder: Path) -> GRPOConfig:
    """Return settings with one optimizer step on all samples of a step, without logs and any checkpointing."""
    vllm = rollout != "generate"
    if work.stop:
        generation: dict[str, Any] = {"stop": list(work.stop), "include_stop_str_in_output": True} if vllm else {}
    else:
        generation = {"ignore_eos": True} if vllm else {"min_new_tokens": work.response_tokens}
    sequences = work.prompts_per_step * work.samples
    return GRPOConfig(
        output_dir=str(folder),
        use_cpu=True,
        bf16=True,
        gradient_checkpointing=False,
        per_device_train_batch_size=work.sequences_in_micro_batch,
        gradient_accumulation_steps=sequences // work.sequences_in_micro_batch,
        num_generations=work.samples,
        max_completion_length=work.response_tokens,
        generation_kwargs=generation,
        loss_type="grpo",
        epsilon=0.2,
        epsilon_high=0.28,
        # Off, there is no second forward pass under vLLM, which is faster but not TRL's default.
        vllm_importance_sampling_correction=False,
        use_vllm=vllm,
        vllm_max_model_length=work.max_prompt_tokens + work.response_tokens,
        max_steps=work.steps,
        learning_rate=work.learning_rate,
        lr_scheduler_type="constant",
        adam_beta2=0.95,
        shuffle_dataset=False,
        seed=work.seed,
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )


@torch.no_grad()
def log_prob_difference(model: PreTrainedModel, rollout: Sampled) -> float:
    """Return the mean |log p(vLLM) - log p(model)| of the last rollout, after which the model took one small step."""
    differences = []
    for prompt, response, log_probs in zip(*rollout, strict=True):
        logits_SV = model(torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1].float()
        own_S = logits_SV.log_softmax(-1).gather(1, torch.tensor(response)[:, None])[:, 0]
        differences.append((own_S - torch.tensor(log_probs)).abs())
    return float(torch.cat(differences).mean())


def main() -> None:
    """Run all steps; the first one warms up."""
    work, path, (dtype, rollout) = files_of_side()
    tokenizer = AutoTokenizer.from_pretrained(work.hf_model)
    model = AutoModelForCausalLM.from_pretrained(work.hf_model, dtype=dtype, attn_implementation="sdpa")
    if work.stop:
        model.generation_config.eos_token_id = end_tokens(work.stop, tokenizer)
    callback = StepCallback()
    callback.trainer = trainer = MeasuredTrainer(
        patched=rollout == "vllm-patched",
        model=model,
        args=grpo_settings(work, rollout, path.parent),
        processing_class=tokenizer,
        train_dataset=Dataset.from_dict({"prompt": list(work.prompts)}),
        reward_funcs=rewards,
        callbacks=[callback],
    )
    trainer.train()
    outcome = Outcome(callback.steps)
    if trainer.last_rollout is not None:
        outcome.log_prob_difference = log_prob_difference(trainer.model.eval(), trainer.last_rollout)
    outcome.write(path)


if __name__ == "__main__":
    main()
