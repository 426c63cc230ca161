"""Stream the trainer's weights into the rollout engine, in place and tensor by tensor, after every update."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress

import torch

from megatron_pz.rollout.lifecycle import EngineBroken, EngineLifecycle
from megatron_pz.runtime.errors import one_line

WeightStream = Iterable[tuple[str, torch.Tensor]]


def load_weights(engine: EngineLifecycle, stream: WeightStream) -> None:
    """Replace all of the engine's weights. The next generation starts from an empty prefix cache.

    Args:
        engine: its weights must be awake.
        stream: (Hugging Face name, full tensor), every tensor of the checkpoint once, in any order; tensors of one
            layer should be consecutive, because vLLM holds them until it can fuse them. A tied model has no
            ``lm_head.weight``. Dtype (floating) and device are arbitrary. A tensor must keep its value until the stream
            ends. Collectives of a sharded trainer may run inside the iterator; all ranks then consume it together.

    Raises:
        EngineBroken: the stream raised, lacks a tensor, or has one with a wrong name or shape. vLLM dismantles its
            layers before the first tensor and cannot restore them, so the engine is unusable afterwards.
    """
    llm = engine.llm
    engine.require_awake("weights")
    tensors = iter(stream)
    complete = complete_stream(tensors, engine.weight_shapes)
    try:
        with engine.limited("the weight sync", "sync_timeout_minutes"):
            llm.collective_rpc("reload_weights", kwargs={"weights_iterator": complete})
            engine.platform.reloaded(llm, tied_head=engine.tied_head)
            engine.weights_loaded()
    except BaseException as error:
        reason = f"its weight update failed ({type(error).__name__}: {one_line(error)})"
        engine.mark_broken(reason)
        if isinstance(error, Exception):
            _drain(tensors)
            raise EngineBroken(f"the rollout engine cannot be used any more: {reason}; start a new one") from error
        raise


def _drain(tensors: Iterator[tuple[str, torch.Tensor]]) -> None:
    """Read a stream to its end, because other ranks wait in its collectives. A stream that raised has ended."""
    with suppress(Exception):
        for _ in tensors:
            pass


def complete_stream(stream: WeightStream, shapes: dict[str, tuple[int, ...]]) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the stream; raise ValueError for an unexpected tensor or a missing one at the end.

    vLLM itself only logs a warning for missing tensors, and keeps their old values.
    """
    missing = dict(shapes)
    for name, tensor in stream:
        expected = missing.pop(name, None)
        if expected is None:
            fault = "a second time" if name in shapes else "which the checkpoint does not have"
            raise ValueError(f"the weight stream has {name!r}, {fault}")
        if tuple(tensor.shape) != expected:
            raise ValueError(f"the weight stream has {name!r} as {tuple(tensor.shape)}, the checkpoint as {expected}")
        yield name, tensor
    if missing:
        raise ValueError(f"the weight stream ended without {len(missing)} tensors, {next(iter(missing))!r} among them")
