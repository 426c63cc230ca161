"""Sample rollouts with vLLM in the trainer's own process.

Each rank has an engine, or shares one with its neighbours (``rollout_tensor_parallel_size``).

Order in a rank's life, which :class:`VllmEngine` checks where it can: process group, trainer, engine, training,
:meth:`VllmEngine.close`, ``destroy_process_group``. An engine made before the process group would make a one-rank group
of its own, in which training goes on silently alone; a group destroyed under a living engine makes the process exit
with code 1.

**Reproducible sampling.** The same prompts, seeds and settings give the same tokens and the same log-probabilities, bit
for bit, in any process with the same number of threads and whatever the engine did before. Three settings make it so:

- every sample draws from a generator of its own (:mod:`.sampling`), so neither torch's global generator nor the
  other requests of a batch enter;
- chunked prefill is off. vLLM rewinds the generator of a prompt that was prefilled only in part by moving its offset,
  which a CPU generator does not have (``CPU Generator does not use offset``);
- the prefix cache is emptied before every call, because a hit changes the shape of the matrix products, and with it
  the last bits of the log-probabilities. The samples of one prompt, and prompts of one call with a common beginning,
  still share their prefill.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.distributed as dist

from megatron_pz.config.schema import RolloutConfig
from megatron_pz.hf.checkpoint import HFTensorSource
from megatron_pz.hf.directory import checkpoint_shapes, has_tied_head, is_read_alike, read_hf_config
from megatron_pz.rl.experience import Decoding, Response, SampleRequest
from megatron_pz.rollout.platform import this_platform
from megatron_pz.rollout.requests import (
    Continuation,
    EngineBroken,
    FollowUp,
    Prompted,
    no_follow_up,
    require_budget,
    responses_of,
    run_to_the_end,
)
from megatron_pz.rollout.sampling import decoding_parameters, sampling_parameters
from megatron_pz.rollout.vllm_patches import (
    collection_paused,
    default_process_group_kept,
    engine_groups_kept,
    forget_model,
    import_vllm,
    import_warnings_silenced,
    preserved_environment,
    preserved_rng,
)
from megatron_pz.rollout.vllm_settings import (
    engine_arguments,
    require_head_size,
    require_positions,
    require_process_group,
    require_ranks,
    require_unbiased_sampling,
    set_environment,
)
from megatron_pz.runtime.errors import BadInput, one_line
from megatron_pz.runtime.watchdog import Watchdog

if TYPE_CHECKING:
    from vllm import LLM, RequestOutput, SamplingParams


Part = Literal["weights", "kv_cache"]
"""The parts of an engine that sleep and wake."""


class VllmEngine:
    """Sample n responses a prompt, with the log-probability of every sampled token.

    Weights are those of ``model_dir`` until :func:`megatron_pz.rollout.weight_sync.load_weights` replaces them. An
    engine with ``read_weights=False`` has none until then, and refuses to generate.
    Usable as a context manager, which closes it. Several engines of one process share vLLM's process groups.

    Where ranks hold an engine together, its start, :meth:`generate`, :meth:`run` and weight updates are collectives of
    theirs. vLLM then runs on all of them in step; one that fails leaves the others waiting, for the watchdog to end.
    """

    _living = 0
    """Engines of this process that have been started and not been closed."""

    def __init__(
        self,
        model_dir: str | Path,
        rollout: RolloutConfig,
        *,
        seed: int,
        colocated: bool,
        watchdog: Watchdog | None = None,
        tokenizer_dir: str | Path | None = None,
        read_weights: bool = True,
    ) -> None:
        """Start vLLM; 4 to 20 seconds on CPU. All ranks of the process group must do so together when ``colocated``.

        Args:
            model_dir: Hugging Face directory (config.json, *.safetensors, tokenizer.json).
            rollout: sampling and memory settings.
            seed: vLLM's own seed. It does not enter :meth:`generate`, whose requests all carry theirs.
            colocated: the process already has the trainer's process group, which the engine joins and leaves in place.
                False: the engine is alone in the process and makes a group for itself.
            watchdog: ends the process when a call of the engine takes longer than ``rollout_timeout_minutes``, and its
                start, a weight update, sleep, waking or its end longer than ``sync_timeout_minutes``.
            tokenizer_dir: directory of the tokenizer that decodes responses and finds stop strings; None: model_dir.
            read_weights: False where the trainer's weights follow at once: the directory's are not read.

        Raises:
            BadInput: settings that would bias the probability ratio, a directory or lengths that vLLM cannot serve,
                an output layer that differs from the embedding that config.json ties it to (where the weights are
                read), a number of processes that cannot be divided among the engines.
            RuntimeError: the process group is missing (colocated) or in the way (not colocated).
        """
        self.model_dir = Path(model_dir)
        self.rollout = rollout
        self.platform = this_platform()
        self._broken: str | None = None
        self._closed = False
        self._sleeping: set[Part] = set()
        require_unbiased_sampling(rollout)
        hf_config = read_hf_config(self.model_dir)
        require_positions(hf_config, rollout)
        self.tied_head = has_tied_head(self.model_dir, hf_config)
        self.weight_shapes = checkpoint_shapes(self.model_dir, tied_head=self.tied_head)
        self.tokenizer_dir = Path(tokenizer_dir or model_dir)
        source = HFTensorSource(self.model_dir)
        if read_weights and self.tied_head:
            source.require_tied_head()
        self._vllm_reads_weights = read_weights and is_read_alike(self.model_dir, source.stored)
        self._has_weights = self._vllm_reads_weights
        self._colocated = colocated
        self._watchdog = watchdog
        with self.limited("the rollout engine's start", "sync_timeout_minutes"):
            self._llm = self._start(seed, hf_config)
        VllmEngine._living += 1
        if read_weights and not self._vllm_reads_weights:
            from megatron_pz.rollout.weight_sync import load_weights

            load_weights(self, source.stream(tied_head=self.tied_head))

    # ---- life ----

    def _start(self, seed: int, hf_config: dict[str, Any]) -> LLM:
        world_size = require_process_group(self._colocated)
        require_ranks(world_size, self.rollout.rollout_tensor_parallel_size)
        set_environment(colocated=self._colocated)
        self.platform.prepare()
        with (
            preserved_rng(),
            preserved_environment("LD_PRELOAD", "LOCAL_WORLD_SIZE"),
            import_warnings_silenced(),
            collection_paused(),
        ):
            llm_class = import_vllm()
            require_head_size(hf_config, self.model_dir, self.platform.head_sizes())
            arguments = engine_arguments(self.rollout, self.platform, colocated=self._colocated)
            arguments |= self.platform.kernels()
            arguments["tokenizer"] = str(self.tokenizer_dir)
            if not self._vllm_reads_weights:
                arguments["load_format"] = "dummy"
            try:
                llm = llm_class(str(self.model_dir), seed=seed, **arguments)
            except ValueError as error:  # pydantic's ValidationError is one, too
                memory = self.platform.memory_setting
                raise BadInput(
                    f"vLLM cannot serve {self.model_dir} with max_prompt_length + max_response_length = "
                    f"{arguments['max_model_len']} and {memory} = {getattr(self.rollout, memory)}: {one_line(error)}"
                ) from error
        self.platform.started(llm)
        if self._colocated and (not dist.is_initialized() or dist.get_world_size() != world_size):
            after = dist.get_world_size() if dist.is_initialized() else 0
            raise RuntimeError(f"starting the rollout engine changed the world size from {world_size} to {after}")
        return llm

    def close(self) -> None:
        """Free vLLM's memory and its own process groups; the trainer's groups stay. Call it before destroying them.

        A second call does nothing.
        """
        if self._closed:
            return
        self._closed = True
        VllmEngine._living -= 1
        try:
            with (
                self.limited("the rollout engine's end", "sync_timeout_minutes"),
                default_process_group_kept(keep=self._colocated),
                engine_groups_kept(keep=VllmEngine._living > 0),
            ):
                try:
                    if self._sleeping:  # vLLM's allocator would give memory back a second time
                        self._wake_up(set(self._sleeping))
                    self._llm.apply_model(forget_model)
                finally:  # a broken engine may fail at both
                    self._llm.llm_engine.engine_core.shutdown()
        finally:
            del self._llm  # also after a failed shutdown: a successor needs the memory
            self.platform.closed(last=VllmEngine._living == 0)

    def __enter__(self) -> VllmEngine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def healthy(self) -> bool:
        """Return whether the engine can generate, now or after :meth:`wake`."""
        return not self._closed and self._broken is None

    def mark_broken(self, reason: str) -> None:
        """Refuse all further work; the first reason is kept and told to whoever asks next."""
        self._broken = self._broken or reason

    def weights_loaded(self) -> None:
        """Note that all weights have been replaced: the engine can generate."""
        self._has_weights = True

    def sleep(self) -> None:
        """Give the GPU's memory to the trainer: weights go to host memory, the KV cache is dropped (vLLM's level 1).

        On a CPU this does nothing: vLLM has no sleep mode there, and weights and trainer share the host memory.
        """
        self.require_usable()
        if self.platform.sleeps:
            with self.limited("the rollout engine's going to sleep", "sync_timeout_minutes"):
                self._llm.sleep(level=1)
            self._sleeping = {"weights", "kv_cache"}

    def wake(self, *parts: Part) -> None:
        """Undo :meth:`sleep`, for both parts unless one is named.

        The lowest peak of memory around a weight update: wake ``weights``, update, free the trainer's copies, wake
        ``kv_cache``. On CPU nothing happens, as in :meth:`sleep`.
        """
        self.require_usable()
        woken = self._sleeping & set(parts or ("weights", "kv_cache"))
        if woken:
            with self.limited("the rollout engine's waking", "sync_timeout_minutes"):
                self._wake_up(woken)

    def _wake_up(self, parts: set[Part]) -> None:
        torch.cuda.empty_cache()  # vLLM asks the driver, past torch's allocator, which keeps what the trainer has freed
        self._llm.wake_up(tags=sorted(parts))
        self._sleeping -= parts

    def require_awake(self, *parts: Part) -> None:
        """Raise RuntimeError when one of these parts sleeps."""
        asleep = self._sleeping & set(parts)
        if asleep:
            raise RuntimeError(f"the rollout engine's {' and '.join(sorted(asleep))} sleep: wake them first")

    def require_usable(self) -> None:
        """Raise EngineBroken after a failed update or generation, RuntimeError after :meth:`close`."""
        if self._broken is not None:
            raise EngineBroken(f"the rollout engine cannot be used any more: {self._broken}; start a new one")
        if self._closed:
            raise RuntimeError("the rollout engine is closed")

    def limited(self, phase: str, setting: str) -> AbstractContextManager[None]:
        """Return a block that the watchdog, if there is one, ends after the minutes of this setting."""
        if self._watchdog is None:
            return nullcontext()
        minutes = getattr(self.rollout, setting)
        return self._watchdog.phase(phase, 60 * minutes, f"--{setting.replace('_', '-')} {minutes:g}")

    @property
    def llm(self) -> LLM:
        """Return vLLM's own object, for the other modules of this room."""
        self.require_usable()
        return self._llm

    # ---- work ----

    @property
    def context(self) -> int:
        """Maximum number of tokens of a prompt and its response together."""
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
        """Sample n responses to each prompt at temperature 1, or as ``decoding`` says.

        Args:
            prompts: this rank's; token ids, at most ``max_prompt_length`` of them.
            n: samples of a prompt, and ``max_tokens`` and ``stop``: the same on all ranks of an engine.
            seeds: one a prompt, e.g. a function of step and global prompt number; equal seeds give equal noise.
            max_tokens: a response that reaches it is truncated; at most ``max_response_length``.
            stop: a response ends with the first token that completes one of these strings. Its text ends with the
                string, its token ids with that whole token.
            decoding: for an evaluation: temperature and top-p in place of the run's. Prompt and response then share
                :attr:`context`, which a response may reach before ``max_tokens``, and a text ends before its stop
                string.

        Returns:
            For each prompt, in order, its n responses. A response that the model ended has its end token among its ids
            but not in its text.
        Raises:
            BadInput: a prompt or a limit outside the configured budget; several samples of greedy decoding.
            EngineBroken: now or earlier, the engine failed.
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
            return [responses_of(output) for output in outputs]
        except EngineBroken as error:
            self.mark_broken(str(error))
            raise

    def answer(
        self, requests: Sequence[SampleRequest], *, stop: Sequence[str], then: FollowUp = no_follow_up
    ) -> dict[Hashable, list[Response]]:
        """Answer requests in one continuous batch, together with those that ``then`` adds whenever one has ended.

        The tokens of a sample depend on its prompt, seed and number, and the last bits of its log-probabilities also on
        the batches that it was computed in. Those follow from ``requests`` and ``then``, so that a repeated call gives
        the same bits. In float32 the tokens are those of :meth:`generate`; in bfloat16 another batch may round two
        nearly equal probabilities otherwise.

        Args:
            requests: the same on all ranks of an engine. They start in this order, as far as memory and
                ``rollout_max_num_seqs`` allow; later ones start when they are added, after all that wait.
            stop: as in :meth:`generate`.
            then: called in the order in which requests end.

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
            answers[key] = responses_of(output)
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
        """Return vLLM's parameters for one prompt; ``more`` passes further ones through, or others."""
        return sampling_parameters(self.rollout, seed, n=n, max_tokens=max_tokens, stop=stop, **more)

    def run(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sequence[SamplingParams],
        then: Continuation = lambda *_: (),
    ) -> list[RequestOutput]:
        """Run vLLM's own requests to their end, one for each prompt, in order; torch's and Python's RNGs stay put.

        ``then`` is called with the number and the output of each request that ends, and returns further prompts with
        their parameters, whose requests are numbered on.
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
            # Requests that were under way stay in vLLM's queues and would come out among those of the next call.
            self.mark_broken(f"generation was cut short by {type(error).__name__}: {one_line(error)}")
            raise

    def reset_prefix_cache(self) -> None:
        """Forget all cached prefixes, which belong to the weights, and the call, that made them."""
        if not self._llm.reset_prefix_cache():
            raise RuntimeError("vLLM did not empty its prefix cache: requests still hold blocks of it")

    def _limits_in_context(self, prompts: Sequence[Sequence[int]], max_tokens: int) -> list[int]:
        """Return the most tokens of each prompt's responses: ``max_tokens``, or what its context leaves."""
        for number, prompt in enumerate(prompts):
            if not 1 <= len(prompt) < self.context:
                raise BadInput(f"prompt {number} has {len(prompt)} tokens, and the engine's context {self.context}")
        return [min(max_tokens, self.context - len(prompt)) for prompt in prompts]
