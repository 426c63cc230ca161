"""Measure this project's side: its policy, engine and loss, as in :mod:`megatron_pz.algorithm.pretrain_zero`.

python -m benchmarks.rl_step.ours WORK.json OUTCOME.json
"""

from __future__ import annotations

from collections.abc import Sequence

from transformers import AutoTokenizer

from benchmarks.rl_step.work import Outcome, Step, Work, files_of_side, reward
from megatron_pz.algorithm.learner import make_learners
from megatron_pz.config.schema import ModelConfig, OptimizerConfig, RolloutConfig, RunConfig, TrainingConfig
from megatron_pz.rl.advantages import group_advantages
from megatron_pz.rl.experience import Response, ScoredGroup
from megatron_pz.rollout.engine import VllmEngine
from megatron_pz.rollout.weight_sync import load_weights
from megatron_pz.run.precision import settle_precision
from megatron_pz.trainer.topology import Topology


def configuration(work: Work) -> RunConfig:
    """Return the default configuration with the settings of the work."""
    return RunConfig(
        model=ModelConfig(hf_model=work.hf_model, precision="auto"),
        rollout=RolloutConfig(
            max_prompt_length=work.max_prompt_tokens,
            max_response_length=work.response_tokens,
            rollout_max_num_seqs=work.prompts_per_step * work.samples,
        ),
        optimizer=OptimizerConfig(lr=work.learning_rate, lr_decay_style="constant"),
        training=TrainingConfig(train_iters=work.steps, micro_batch_tokens=work.tokens_in_micro_batch, seed=work.seed),
    )


def sample(engine: VllmEngine, work: Work, prompts: Sequence[Sequence[int]], step: int) -> list[list[Response]]:
    """Sample all prompts of a step in one call of the engine."""
    first = work.seed + step * len(prompts)
    seeds = range(first, first + len(prompts))
    if work.stop:
        return engine.generate(prompts, work.samples, seeds=seeds, max_tokens=work.response_tokens, stop=work.stop)
    sampling = [
        engine.sampling(seed, n=work.samples, max_tokens=work.response_tokens, stop=(), ignore_eos=True)
        for seed in seeds
    ]
    outputs = engine.run(prompts, sampling)
    return [
        [
            Response(tuple(each.token_ids), tuple(each.logprobs.logprobs), each.text, truncated=True)
            for each in output.outputs
        ]
        for output in outputs
    ]


def main() -> None:
    """Run all steps; the first one warms up."""
    work, path, _ = files_of_side()
    config = settle_precision(configuration(work))
    tokenizer = AutoTokenizer.from_pretrained(work.hf_model)
    topology = Topology.start(config.parallel, work.seed)
    (learner,) = make_learners(config, topology)
    outcome = Outcome()
    with VllmEngine(work.hf_model, config.rollout, seed=work.seed, colocated=True) as engine:
        for number in range(work.steps):
            texts = work.prompts[number * work.prompts_per_step :][: work.prompts_per_step]
            step = Step()
            with step.measured():
                prompts = [tokenizer.encode(text, add_special_tokens=False) for text in texts]
                with step.phase("rollout"):
                    sampled = sample(engine, work, prompts, number)
                groups = []
                for text, prompt, responses in zip(texts, prompts, sampled, strict=True):
                    rewards = tuple(reward(text, response.text) for response in responses)
                    advantages = tuple(group_advantages(rewards))
                    groups.append(ScoredGroup("predictor", tuple(prompt), tuple(responses), rewards, advantages))
                mixed = [group for group in groups if any(group.advantages)]
                with step.phase("update"):
                    (update,) = learner.learn(mixed, number + 1).updates
                with step.phase("sync"):
                    load_weights(engine, learner.policy.weights())
            step.prompt_tokens = sum(map(len, prompts))
            step.response_tokens = sum(len(each.token_ids) for group in groups for each in group.responses)
            step.trained_responses = sum(len(group.responses) for group in mixed)
            outcome.steps.append(step)
            outcome.log_prob_difference = update.statistics.pooled().log_prob_difference_mean
    outcome.write(path)
    topology.close()


if __name__ == "__main__":
    main()
