"""Check at the start that the engine's log-probabilities are log-softmax at temperature 1 over the vocabulary."""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING

import torch

from megatron_pz.rollout.engine import VllmEngine
from megatron_pz.rollout.logprob_mismatch import LogProbDifference
from megatron_pz.runtime.errors import ExpectedFailure

if TYPE_CHECKING:
    from megatron_pz.rl.experience import Response

MAX_MEAN_DIFFERENCE = {"float32": 1e-3, "bfloat16": 0.2, "fp8": 0.4}
"""Largest mean difference, in nats per token, between decoding a token and scoring it in a prompt. Both compute the
same function with matrix products of other shapes: SmolLM2-135M gives equal bits on a CPU in both dtypes. A GPU sums in
another order for each shape: two orders of summation are 0.08 apart in bfloat16 and 0.22 with FP8's rounding (emulated,
the same model, random prompts). A temperature of 0.9 is 0.23 to 0.27 off, one of 0.8 0.43."""
MAX_TOTAL_ERROR = 1e-3
"""Largest deviation from 1 of the sum of a distribution over the vocabulary (float32 log-softmax)."""
PROMPTS, PROMPT_TOKENS, RESPONSE_TOKENS = 4, 12, 8


class LogProbSemanticsError(ExpectedFailure):
    """The engine's log-probabilities are not log-softmax at temperature 1 over the whole vocabulary."""


def require_log_prob_semantics(engine: VllmEngine) -> None:
    """Sample a few responses to random prompts and check their log-probabilities; this takes below 2 s on a CPU.

    - Over the whole vocabulary they are natural logarithms of probabilities that sum to 1, without truncation (top-p,
      top-k).
    - They equal the engine's log-probabilities of the same tokens as part of a prompt, which vLLM always scores at
      temperature 1 and without truncation.

    Raises:
        LogProbSemanticsError: one of these conditions is violated; the message says which.
    """
    _require_whole_distribution(engine)
    _require_temperature_one(engine)


def _require_whole_distribution(engine: VllmEngine) -> None:
    # No text, because detokenizing a whole vocabulary takes seconds.
    once = engine.sampling(0, n=1, max_tokens=1, stop=(), logprobs=-1, detokenize=False)
    output = engine.run(_prompts(engine)[:1], [once])[0]
    # The sampled token is listed first, and again at its rank.
    log_probs_V = torch.tensor(output.outputs[0].logprobs.logprobs[1:], dtype=torch.float64)
    cut = int(torch.isinf(log_probs_V).sum())
    if cut:
        raise LogProbSemanticsError(
            f"{cut} of {len(log_probs_V)} tokens cannot be sampled: the engine truncates (top-p or top-k)"
        )
    total = float(log_probs_V.exp().sum())
    if not math.isclose(total, 1.0, abs_tol=MAX_TOTAL_ERROR):
        raise LogProbSemanticsError(f"the engine's probabilities sum up to {total:.4f} over the vocabulary, not to 1")


def _require_temperature_one(engine: VllmEngine) -> None:
    prompts = _prompts(engine)
    max_tokens = min(RESPONSE_TOKENS, engine.rollout.max_response_length)
    groups = engine.generate(prompts, 1, seeds=range(PROMPTS), max_tokens=max_tokens, stop=())
    responses = [group[0] for group in groups]
    scored = _score(engine, prompts, responses)
    difference = LogProbDifference.between(scored, [response.log_probs for response in responses])
    rollout = engine.rollout
    kind = rollout.rollout_dtype if rollout.rollout_quantization == "none" else rollout.rollout_quantization
    bound = MAX_MEAN_DIFFERENCE[kind]
    if not difference.mean <= bound:
        raise LogProbSemanticsError(
            f"sampled tokens have log-probabilities {difference.mean:.3g} nats off those at temperature 1 on average, "
            f"above {bound:g} for {kind}: the engine samples at another temperature"
        )


def _prompts(engine: VllmEngine) -> list[list[int]]:
    """Draw random token ids, which are the same in every call.

    One token of the budget stays free, so that prompt and response together fit as a prompt.
    """
    draw = random.Random(0)
    vocabulary = engine.llm.model_config.get_vocab_size()
    length = max(1, min(PROMPT_TOKENS, engine.rollout.max_prompt_length - 1))
    return [[draw.randrange(vocabulary) for _ in range(length)] for _ in range(PROMPTS)]


def _score(engine: VllmEngine, prompts: list[list[int]], responses: list[Response]) -> list[list[float]]:
    """Return the log-probabilities of the responses' tokens, from one pass over each prompt with its response."""
    whole = [prompt + list(response.token_ids) for prompt, response in zip(prompts, responses, strict=True)]
    once = engine.sampling(0, n=1, max_tokens=1, stop=(), prompt_logprobs=0, logprobs=None)
    outputs = engine.run(whole, [once] * len(whole))
    # vLLM's first position is empty, because nothing predicts it.
    return [output.prompt_logprobs.logprobs[len(prompt) - 1 :] for output, prompt in zip(outputs, prompts, strict=True)]
