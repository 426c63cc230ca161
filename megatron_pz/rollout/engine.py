"""Sample rollouts with vLLM in the trainer's own process.

Each rank has an engine, or shares one with neighbouring ranks (``rollout_tensor_parallel_size``).

**Reproducible sampling.** The same prompts, seeds and settings give the same tokens and the same log-probabilities, bit
for bit, in any process with the same number of threads, independent of the engine's earlier calls. Three settings
ensure this:

- every sample has its own random generator (:mod:`.sampling`), so that neither torch's global generator nor the
  other requests of a batch affect it;
- chunked prefill is off. vLLM rewinds the generator of a partially prefilled prompt by moving its offset, which a CPU
  generator does not have (``CPU Generator does not use offset``);
- the prefix cache is emptied before every call, because a hit changes the shape of the matrix products, and with it
  the last bits of the log-probabilities. The samples of one prompt, and prompts of one call with a common prefix,
  still share their prefill.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any

import torch.distributed as dist

from megatron_pz.rl.experience import Decoding, Response, SampleRequest
from megatron_pz.rollout.lifecycle import EngineBroken, EngineLifecycle
from megatron_pz.rollout.requests import (
    Continuation,
    FollowUp,
    Prompted,
    no_follow_up,
    require_budget,
    responses_of,
    run_to_the_end,
)
from megatron_pz.rollout.sampling import decoding_parameters, sampling_parameters
from megatron_pz.rollout.vllm_patches import preserved_rng
from megatron_pz.runtime.errors import BadInput, one_line

if TYPE_CHECKING:
    from vllm import RequestOutput, SamplingParams


class VllmEngine(EngineLifecycle):
    """Samples n responses per prompt, with the log-probability of every sampled token.

    If ranks share an engine, its start, :meth:`generate`, :meth:`run` and weight updates are collectives of these
    ranks. vLLM then runs on all of them in lockstep; if one fails, the others wait until the watchdog ends the run.
    """

    @property
    def context(self) -> int:
        """Return the maximum number of tokens of a prompt and its response together."""
        return self.rollout.max_prompt_length + self.rollout.max_response_length

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        n: int,
        *,
        seeds: Sequence[int],
        max_tokens: int,
        stop: Sequence[str],
        decoding: Decoding | None = None,
    ) -> list[list[Response]]:
        """Sample n responses to each prompt, at temperature 1 or by ``decoding``.

        Args:
            prompts: this rank's prompts, as at most ``max_prompt_length`` token ids each.
            n: number of samples per prompt. ``n``, ``max_tokens`` and ``stop`` are the same on all ranks of an engine.
            seeds: one per prompt, e.g. a function of step and global prompt number; equal seeds give equal noise.
            max_tokens: length at which a response is truncated; at most ``max_response_length``.
            stop: a response ends with the first token that completes one of these strings. Its text ends with the
                string, its token ids with that whole token.
            decoding: temperature and top-p of an evaluation instead of the run's. Prompt and response then share
                :attr:`context`, which a response may reach before ``max_tokens``, and a text ends before its stop
                string.

        Returns:
            For each prompt, in order, its n responses. A response that the model ended has its end token among its ids
            but not in its text.
        Raises:
            BadInput: a prompt or a limit is outside the configured budget, or greedy decoding has several samples.
            EngineBroken: the engine has failed, now or earlier.
        """
        if len(seeds) != len(prompts):
            raise ValueError(f"{len(prompts)} prompts need as many seeds, not {len(seeds)}")
        if n < 1:
            raise BadInput(f"{n} samples of a prompt were asked for; ask for at least 1")
        limits: Sequence[int] = [max_tokens] * len(prompts)
        more: dict[str, Any] = {}
        if decoding is None:
            require_budget(prompts, max_tokens, self.rollout)
        else:
            limits, more = self._limits_in_context(prompts, max_tokens), decoding_parameters(decoding, n)
        own, prompts, seeds, limits = self._joined(prompts, seeds, limits)
        sampling = [
            self.sampling(seed, n=n, max_tokens=limit, stop=stop, **more)
            for seed, limit in zip(seeds, limits, strict=True)
        ]
        outputs = self.run(prompts, sampling)[own]
        try:
            return [responses_of(output, self.return_experts) for output in outputs]
        except EngineBroken as error:
            self.mark_broken(str(error))
            raise

    def answer(
        self, requests: Sequence[SampleRequest], *, stop: Sequence[str], then: FollowUp = no_follow_up
    ) -> dict[Hashable, list[Response]]:
        """Answer requests in one continuous batch, including the requests that ``then`` adds when one has ended.

        The tokens of a sample depend on its prompt, seed and number. The last bits of its log-probabilities also depend
        on the batches in which it was computed. The batches follow from ``requests`` and ``then``, so that a repeated
        call gives the same bits. In float32 the tokens are those of :meth:`generate`; in bfloat16 a different batch may
        round two nearly equal probabilities differently.

        Args:
            requests: the same on all ranks of an engine. They start in this order, as far as memory and
                ``rollout_max_num_seqs`` allow. Added requests start after all waiting ones.
            stop: as in :meth:`generate`.
            then: called for each request that has ended, in the order in which they end.

        Returns:
            The responses of all requests by their keys, in the order in which they ended.

        Raises:
            BadInput, EngineBroken: as in :meth:`generate`.
        """
        asked: list[SampleRequest] = []
        answers: dict[Hashable, list[Response]] = {}

        def enter(more: Sequence[SampleRequest]) -> list[Prompted]:
            for each in more:
                require_budget([each.prompt_ids], each.max_tokens, self.rollout)
            asked.extend(more)
            return [(each.prompt_ids, self.sampling_of(each, stop)) for each in more]

        def ended(number: int, output: RequestOutput) -> list[Prompted]:
            key = asked[number].key
            answers[key] = responses_of(output, self.return_experts)
            return enter(then(key, answers))

        first = enter(requests)
        self.run([prompt for prompt, _ in first], [sampling for _, sampling in first], ended)
        return answers

    def _joined(
        self, prompts: Sequence[Sequence[int]], seeds: Sequence[int], limits: Sequence[int]
    ) -> tuple[slice, Sequence[Sequence[int]], Sequence[int], Sequence[int]]:
        """Gather the prompts of all ranks of this engine, in rank order; the slice is this rank's part."""
        if self.rollout.rollout_tensor_parallel_size == 1:
            return slice(None), prompts, seeds, limits
        from vllm.distributed import get_tp_group

        ranks = get_tp_group()
        asked: list[Any] = [None] * ranks.world_size
        with self.limited("rollout", "rollout_timeout_minutes"):
            dist.all_gather_object(asked, list(zip(prompts, seeds, limits, strict=True)), group=ranks.cpu_group)
        first = sum(map(len, asked[: ranks.rank_in_group]))
        together = [request for of_rank in asked for request in of_rank]
        all_prompts, all_seeds, all_limits = ([request[part] for request in together] for part in range(3))
        return slice(first, first + len(prompts)), all_prompts, all_seeds, all_limits

    def sampling_of(self, request: SampleRequest, stop: Sequence[str]) -> SamplingParams:
        """Return vLLM's parameters for the samples of a request."""
        sampling = self.sampling(request.seed, n=len(request.samples), max_tokens=request.max_tokens, stop=stop)
        sampling.seed += request.samples.start
        return sampling

    def sampling(self, seed: int, *, n: int, max_tokens: int, stop: Sequence[str], **more: Any) -> SamplingParams:
        """Return vLLM's parameters for one prompt; ``more`` adds or overrides parameters."""
        return sampling_parameters(self.rollout, seed, n=n, max_tokens=max_tokens, stop=stop, **more)

    def run(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sequence[SamplingParams],
        then: Continuation = lambda *_: (),
    ) -> list[RequestOutput]:
        """Run vLLM's own requests, one for each prompt, to their end in order; preserve torch's and Python's RNGs.

        ``then`` is called with the number and the output of each request that ends, and returns further prompts with
        their parameters. The numbering of requests continues with them.
        """
        self.require_usable()
        if not self._has_weights:
            raise RuntimeError("the rollout engine has no weights yet: it was started with read_weights=False")
        self.require_awake("weights", "kv_cache")
        if not prompts:
            return []
        try:
            with preserved_rng(), self.limited("rollout", "rollout_timeout_minutes"):
                self.reset_prefix_cache()
                return run_to_the_end(self._llm, prompts, sampling, then)
        except BaseException as error:
            # Unfinished requests stay in vLLM's queues and would be returned by the next call.
            self.mark_broken(f"generation was interrupted by {type(error).__name__}: {one_line(error)}")
            raise

    def reset_prefix_cache(self) -> None:
        """Empty the prefix cache, which is valid only for the weights and the call that filled it."""
        if not self._llm.reset_prefix_cache():
            raise RuntimeError("vLLM did not empty its prefix cache: requests still hold blocks of it")

    def _limits_in_context(self, prompts: Sequence[Sequence[int]], max_tokens: int) -> list[int]:
        """Return each prompt's limit on response tokens: ``max_tokens``, or the remaining context if that is less."""
        for number, prompt in enumerate(prompts):
            if not 1 <= len(prompt) < self.context:
                raise BadInput(f"prompt {number} has {len(prompt)} tokens, and the engine's context {self.context}")
        return [min(max_tokens, self.context - len(prompt)) for prompt in prompts]
