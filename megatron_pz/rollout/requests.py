"""Translate between the project's requests and vLLM's: seeds, budgets and finished responses."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from megatron_pz.config.schema import RolloutConfig
from megatron_pz.rl.experience import Response, SampleRequest
from megatron_pz.rollout.lifecycle import EngineBroken
from megatron_pz.runtime.errors import BadInput

if TYPE_CHECKING:
    from vllm import LLM, RequestOutput, SamplingParams

Prompted: TypeAlias = "tuple[Sequence[int], SamplingParams]"
"""A prompt with vLLM's parameters for its samples."""
Continuation: TypeAlias = "Callable[[int, RequestOutput], Sequence[Prompted]]"
"""Returns the follow-up prompts of an output, given the number of its request and the output."""

Answers = Mapping[Hashable, Sequence[Response]]
"""Responses to the requests that have ended, by the key of the request."""
FollowUp = Callable[[Hashable, Answers], Sequence[SampleRequest]]
"""Returns the follow-up requests of an answer, given the key of the ended request and all answers so far. It depends on
nothing else, because an engine that replaces a failed one starts again from the first requests."""


def no_follow_up(key: Hashable, answers: Answers) -> Sequence[SampleRequest]:
    """Return no further requests."""
    return ()


def run_to_the_end(
    llm: LLM, prompts: Sequence[Sequence[int]], sampling: Sequence[SamplingParams], then: Continuation
) -> list[RequestOutput]:
    """Let vLLM answer prompts, and those that ``then`` adds when one has ended, in one continuous batch.

    Returns:
        The outputs by the numbers of their requests. The numbering continues with the added requests.
    """
    from vllm import TokensPrompt

    numbers: dict[int, int] = {}
    outputs: dict[int, RequestOutput] = {}

    def enqueue(prompts: Sequence[Sequence[int]], sampling: Sequence[SamplingParams]) -> None:
        requests = [TokensPrompt(prompt_token_ids=list(prompt)) for prompt in prompts]
        for name in llm.enqueue(requests, list(sampling), use_tqdm=False):
            # vLLM numbers its requests, and outputs carry the number; inside the engine a random suffix follows it.
            numbers[int(name.partition("-")[0])] = len(numbers)

    enqueue(prompts, sampling)
    while llm.llm_engine.has_unfinished_requests():
        for output in llm.llm_engine.step():
            if output.finished:
                number = numbers[int(output.request_id)]
                outputs[number] = output
                if more := then(number, output):
                    enqueue([prompt for prompt, _ in more], [parameters for _, parameters in more])
    return [output for _, output in sorted(outputs.items())]


def responses_of(output: RequestOutput, with_experts: bool = False) -> list[Response]:
    """Convert the samples of a finished vLLM request.

    Raises:
        EngineBroken: vLLM aborted a sample, or returned no expert ids although ``with_experts`` requests them.
    """
    prompt = len(output.prompt_token_ids or ()) if with_experts else 0
    return [_response(completion, prompt) for completion in output.outputs]


def _response(completion: Any, prompt: int) -> Response:
    """Convert one sample; ``prompt`` is the length of the prompt of a sample with expert ids, otherwise 0."""
    if completion.finish_reason not in ("stop", "length"):
        raise EngineBroken(f"a response ended for the reason {completion.finish_reason!r}, not by a stop or its length")
    return Response(
        token_ids=tuple(completion.token_ids),
        log_probs=tuple(completion.logprobs.logprobs),
        text=completion.text,
        truncated=completion.finish_reason == "length",
        **(_expert_ids(completion, prompt) if prompt else {}),
    )


def _expert_ids(completion: Any, prompt: int) -> dict[str, bytes]:
    """Return the expert ids of the prompt's and of the response's tokens, in the form of :class:`Response`."""
    ids, computed = completion.routed_experts, prompt + len(completion.token_ids) - 1
    if ids is None or ids.ndim != 3 or len(ids) != computed:
        shape = None if ids is None else ids.shape
        raise EngineBroken(f"vLLM returned expert ids of the shape {shape} for the {computed} tokens that it computed")
    if ids.dtype not in (np.uint8, np.uint16):
        raise EngineBroken(f"vLLM returned expert ids of the type {ids.dtype}, not uint8 or uint16")
    return {"prompt_experts": ids[:prompt].tobytes(), "experts": ids[prompt:].tobytes()}


def require_budget(prompts: Sequence[Sequence[int]], max_tokens: int, rollout: RolloutConfig) -> None:
    """Raise BadInput if a prompt or a response limit is outside the configured lengths."""
    longest = rollout.max_prompt_length
    for number, prompt in enumerate(prompts):
        if not 1 <= len(prompt) <= longest:
            raise BadInput(
                f"prompt {number} has {len(prompt)} tokens, max_prompt_length allows 1 to {longest}: "
                "raise it, or draw shorter passages"
            )
    if not 1 <= max_tokens <= rollout.max_response_length:
        raise BadInput(f"max_tokens is {max_tokens}, max_response_length allows 1 to {rollout.max_response_length}")
