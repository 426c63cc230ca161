"""Start vLLM in the trainer's process, share its memory with the trainer, and end it.

A rank must follow this order, which :class:`EngineLifecycle` checks as far as possible: process group, trainer, engine,
training, :meth:`EngineLifecycle.close`, ``destroy_process_group``. An engine that starts before the process group would
create a group of one rank, in which the rank would silently train alone. If the group is destroyed before the engine is
closed, the process exits with code 1.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

import torch
import torch.distributed as dist

from megatron_pz.config.schema import RolloutConfig
from megatron_pz.hf.checkpoint import HFTensorSource
from megatron_pz.hf.directory import checkpoint_shapes, has_tied_head, is_read_alike, read_hf_config
from megatron_pz.rollout.platform import this_platform
from megatron_pz.rollout.speculation import DraftCounts, SampledVerification, answer_module_scan, require_speculation
from megatron_pz.rollout.vllm_patches import (
    collection_paused,
    default_process_group_kept,
    engine_groups_kept,
    experts_on_all_ranks,
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
from megatron_pz.runtime.errors import BadInput, ExpectedFailure, one_line
from megatron_pz.runtime.watchdog import Watchdog

if TYPE_CHECKING:
    from vllm import LLM

Part = Literal["weights", "kv_cache"]
"""The parts of an engine that sleep and wake."""


class EngineBroken(ExpectedFailure):
    """The engine can no longer be trusted (failed weight update or generation); the process must start a new one."""


class EngineLifecycle:
    """Owns a vLLM engine of this process from its start to its end. :class:`.engine.VllmEngine` adds the sampling.

    Weights are those of ``model_dir`` until :func:`megatron_pz.rollout.weight_sync.load_weights` replaces them. An
    engine with ``read_weights=False`` has none until then and refuses to generate. As a context manager, the object
    closes the engine on exit. Several engines of one process share vLLM's process groups.
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
        return_experts: bool = False,
    ) -> None:
        """Start vLLM, which takes 4 to 20 seconds on CPU. With ``colocated``, all ranks must start it together.

        Args:
            model_dir: Hugging Face directory (config.json, *.safetensors, tokenizer.json).
            rollout: sampling and memory settings.
            seed: vLLM's own seed. It does not affect samples, because every request has its own seed.
            colocated: the process already has the trainer's process group, which the engine joins and leaves intact. If
                False, the engine is alone in the process and creates its own group.
            watchdog: ends the process if a call of the engine takes longer than ``rollout_timeout_minutes``, or if its
                start, a weight update, sleep, waking or its end takes longer than ``sync_timeout_minutes``.
            tokenizer_dir: directory of the tokenizer that decodes responses and finds stop strings; ``model_dir`` if
                None.
            read_weights: False if the trainer's weights follow immediately; the weights of the directory are not read.
            return_experts: whether responses carry the expert ids of their tokens; for a mixture of experts.

        Raises:
            BadInput: settings would bias the probability ratio, vLLM cannot serve the directory or the lengths, the
                output layer differs from the embedding that config.json ties it to (if the weights are read), or the
                number of processes cannot be divided among the engines.
            RuntimeError: the process group is missing (colocated) or present (not colocated).
        """
        self.model_dir = Path(model_dir)
        self.rollout = rollout
        self.platform = this_platform()
        self._broken: str | None = None
        self._closed = False
        self._sleeping: set[Part] = set()
        self._verification = SampledVerification()
        self.return_experts = return_experts
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
        EngineLifecycle._living += 1
        if read_weights and not self._vllm_reads_weights:
            from megatron_pz.rollout.weight_sync import load_weights

            load_weights(self, source.stream(tied_head=self.tied_head))

    def _start(self, seed: int, hf_config: dict[str, Any]) -> LLM:
        world_size = require_process_group(self._colocated)
        require_ranks(world_size, self.rollout.rollout_tensor_parallel_size)
        speculative = self.rollout.rollout_speculative_tokens > 0
        set_environment(colocated=self._colocated, speculative=speculative)
        self.platform.prepare()
        answer_module_scan()
        with (
            preserved_rng(),
            preserved_environment("LD_PRELOAD", "LOCAL_WORLD_SIZE"),
            import_warnings_silenced(),
            collection_paused(),
        ):
            llm_class = import_vllm()
            if speculative:
                require_speculation()
            require_head_size(hf_config, self.model_dir, self.platform.head_sizes())
            arguments = engine_arguments(self.rollout, self.platform, colocated=self._colocated)
            arguments |= self.platform.kernels()
            arguments["tokenizer"] = str(self.tokenizer_dir)
            if self.return_experts:
                arguments |= self.platform.expert_arguments
            if not self._vllm_reads_weights:
                arguments["load_format"] = "dummy"
            try:
                with experts_on_all_ranks():
                    llm = llm_class(str(self.model_dir), seed=seed, **arguments)
            except ValueError as error:  # pydantic's ValidationError is a subclass
                memory = self.platform.memory_setting
                raise BadInput(
                    f"vLLM cannot serve {self.model_dir} with max_prompt_length + max_response_length = "
                    f"{arguments['max_model_len']} and {memory} = {getattr(self.rollout, memory)}: {one_line(error)}"
                ) from error
        self.platform.started(llm, returns_experts=self.return_experts)
        if speculative:
            llm.collective_rpc(self._verification.install)
        if self._colocated and (not dist.is_initialized() or dist.get_world_size() != world_size):
            after = dist.get_world_size() if dist.is_initialized() else 0
            raise RuntimeError(f"starting the rollout engine changed the world size from {world_size} to {after}")
        return llm

    def close(self) -> None:
        """Free vLLM's memory and its own process groups, but not the trainer's. Call this before destroying those.

        A second call does nothing.
        """
        if self._closed:
            return
        self._closed = True
        EngineLifecycle._living -= 1
        try:
            with (
                self.limited("the rollout engine's end", "sync_timeout_minutes"),
                default_process_group_kept(keep=self._colocated),
                engine_groups_kept(keep=EngineLifecycle._living > 0),
            ):
                try:
                    if self._sleeping:  # vLLM's allocator would free memory a second time
                        self._wake_up(set(self._sleeping))
                    self._llm.apply_model(forget_model)
                finally:  # both may fail for a broken engine
                    self._llm.llm_engine.engine_core.shutdown()
        finally:
            del self._llm  # also after a failed shutdown, because a successor needs the memory
            self.platform.closed(last=EngineLifecycle._living == 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def healthy(self) -> bool:
        """Return whether the engine can generate, now or after :meth:`wake`."""
        return not self._closed and self._broken is None

    def mark_broken(self, reason: str) -> None:
        """Refuse all further work. The first reason is kept and reported by later calls."""
        self._broken = self._broken or reason

    def weights_loaded(self) -> None:
        """Record that all weights have been replaced, so that the engine can generate."""
        self._has_weights = True

    def sleep(self) -> None:
        """Free GPU memory for the trainer: move the weights to host memory and drop the KV cache (vLLM's level 1).

        On a CPU this does nothing: vLLM has no sleep mode there, and weights and trainer share the host memory.
        """
        self.require_usable()
        if self.platform.sleeps:
            with self.limited("the rollout engine's going to sleep", "sync_timeout_minutes"):
                self._llm.sleep(level=1)
            self._sleeping = {"weights", "kv_cache"}

    def wake(self, *parts: Part) -> None:
        """Undo :meth:`sleep`, for both parts unless one is named.

        This order has the lowest memory peak around a weight update: wake ``weights``, update, free the trainer's
        copies, wake ``kv_cache``. On a CPU this does nothing, as :meth:`sleep`.
        """
        self.require_usable()
        woken = self._sleeping & set(parts or ("weights", "kv_cache"))
        if woken:
            with self.limited("the rollout engine's waking", "sync_timeout_minutes"):
                self._wake_up(woken)

    def _wake_up(self, parts: set[Part]) -> None:
        # vLLM allocates from the driver, but torch's allocator caches the memory that the trainer has freed.
        torch.cuda.empty_cache()
        self._llm.wake_up(tags=sorted(parts))
        self._sleeping -= parts

    def require_awake(self, *parts: Part) -> None:
        """Raise RuntimeError if one of these parts sleeps."""
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
        """Return a context manager in which the watchdog, if any, enforces the minutes of this setting."""
        if self._watchdog is None:
            return nullcontext()
        minutes = getattr(self.rollout, setting)
        return self._watchdog.phase(phase, 60 * minutes, f"--{setting.replace('_', '-')} {minutes:g}")

    def take_draft_counts(self) -> DraftCounts:
        """Return the draft counts since the last call."""
        return self._verification.take_counts()

    @property
    def llm(self) -> LLM:
        """Return vLLM's own object, for the other modules of this package."""
        self.require_usable()
        return self._llm
