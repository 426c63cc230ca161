"""Compare the project's rollouts with bare ``vllm.LLM.generate``, and the weight sync with a copy in memory.

    python -m benchmarks.rollout.overhead --hf-model DIR [--prompts 16] [--response 32] [--repeats 2]

The same engine answers the same prompts with the same number of tokens, from an empty prefix cache. The bare side
requests only samples of vLLM's own sampler, without seeds and log-probabilities. The project's side is that of the
trainer: seeded samples of its sampler, each token's log-probability, :class:`~megatron_pz.rl.experience.Response`
objects, and preserved random generators. The measure is CPU-seconds on one thread. The sync streams all weights from a
Megatron policy into the engine; it is compared with one copy of their bytes. The rest of its time is vLLM's reload: on
a CPU oneDNN's packing of every matrix takes about half of that.
"""

from __future__ import annotations

import random
import sys
from typing import Any

import torch

from benchmarks.common.cpu import compared, require_positive, write_result
from megatron_pz.config.command_line import Parser
from megatron_pz.config.schema import ModelConfig, ParallelConfig, RolloutConfig
from megatron_pz.rollout.cpu import cpu_sampling
from megatron_pz.rollout.engine import VllmEngine
from megatron_pz.rollout.weight_sync import load_weights
from megatron_pz.run.precision import fastest_precision
from megatron_pz.runtime.errors import exits_with_one_line
from megatron_pz.trainer.policy import PolicyModel
from megatron_pz.trainer.topology import Topology

SAMPLES, PROMPT = 8, 200
GOALS = {"rollouts": 0.95, "sync": 10.0}


@exits_with_one_line
def main() -> None:
    """Measure rollouts and the weight sync, and write the result."""
    flags = Parser(__doc__.split("\n")[0])
    flags.add_argument("--hf-model", required=True)
    flags.add_argument("--precision", choices=["bf16", "fp32"], default=fastest_precision())
    flags.add_argument("--prompts", type=int, default=16)
    flags.add_argument("--response", type=int, default=32)
    flags.add_argument("--repeats", type=int, default=2)
    given = flags.parse_args(sys.argv[1:])
    require_positive(given, "prompts", "response", "repeats")
    torch.set_num_threads(1)
    bf16 = given.precision == "bf16"
    rollout = RolloutConfig(
        max_prompt_length=PROMPT,
        max_response_length=given.response,
        rollout_dtype="bfloat16" if bf16 else "float32",
        rollout_memory_gib=0.5,
    )
    topology = Topology.start(ParallelConfig(), seed=1)
    policy = PolicyModel(ModelConfig(hf_model=given.hf_model, bf16=bf16), ParallelConfig(), topology)
    with VllmEngine(given.hf_model, rollout, seed=0, colocated=True) as engine:
        draw = random.Random(0)
        vocabulary = policy.architecture.vocab_size
        prompts = [[draw.randrange(vocabulary) for _ in range(PROMPT)] for _ in range(given.prompts)]
        figures = rollouts(engine, prompts, given.response, given.repeats) | sync(engine, policy)
        write_result(f"rollout_overhead_{given.precision}", vars(given), figures)
    topology.close()


def rollouts(engine: VllmEngine, prompts: list[list[int]], response: int, repeats: int) -> dict[str, float]:
    """Compare sampling ``response`` tokens to each prompt through bare vLLM and through the project."""
    from vllm import SamplingParams, TokensPrompt

    bare = SamplingParams(n=SAMPLES, temperature=1.0, max_tokens=response, ignore_eos=True, detokenize=True)
    generated: dict[str, int] = {}

    def through_vllm() -> None:
        engine.llm.collective_rpc(_take_vllms_sampler)
        engine.reset_prefix_cache()  # the other side's call has left the same prompts in the cache
        requests = [TokensPrompt(prompt_token_ids=prompt) for prompt in prompts]
        outputs = engine.llm.generate(requests, bare, use_tqdm=False)
        generated["bare"] = sum(len(sample.token_ids) for output in outputs for sample in output.outputs)

    plain_sampling = engine.sampling
    engine.sampling = lambda *args, **more: plain_sampling(*args, **more, ignore_eos=True)  # type: ignore[method-assign]

    def through_the_project() -> None:
        engine.llm.collective_rpc(cpu_sampling.install)
        groups = engine.generate(prompts, SAMPLES, seeds=range(len(prompts)), max_tokens=response, stop=[])
        generated["project"] = sum(len(sample.token_ids) for group in groups for sample in group)

    seconds = compared({"bare": through_vllm, "project": through_the_project}, repeats=repeats)
    assert generated["bare"] == generated["project"], "both sides do the same work"
    figures = {f"{side}: tokens a CPU-second": generated[side] / taken for side, taken in seconds.items()}
    return figures | {f"rollouts: project / bare (goal {GOALS['rollouts']})": seconds["bare"] / seconds["project"]}


def sync(engine: VllmEngine, policy: PolicyModel) -> dict[str, float]:
    """Compare the weight sync, and the trainer's part of it, with a copy of the weights."""
    weights = [tensor.detach().clone() for _, tensor in policy.weights()]
    targets = [torch.empty_like(tensor) for tensor in weights]

    def copy() -> None:
        for target, source in zip(targets, weights, strict=True):
            target.copy_(source)

    def stream() -> None:
        for _ in policy.weights():
            pass

    sides = {"copy": copy, "stream": stream, "sync": lambda: load_weights(engine, policy.weights())}
    seconds = compared(sides, repeats=7, warm_up=2)
    figures = {"weights, MB": sum(tensor.nbytes for tensor in weights) / 1e6}
    figures |= {f"{name} of the weights, CPU-s": taken for name, taken in seconds.items()}
    figures["stream / copy: the trainer's part of the sync"] = seconds["stream"] / seconds["copy"]
    figures[f"sync / copy (goal at most {GOALS['sync']:g})"] = seconds["sync"] / seconds["copy"]
    return figures


def _take_vllms_sampler(worker: Any) -> None:
    """Undo :func:`~megatron_pz.rollout.cpu.cpu_sampling.install`."""
    sampler = worker.model_runner.sampler.topk_topp_sampler
    sampler.forward = sampler.forward_cpu


if __name__ == "__main__":
    main()
