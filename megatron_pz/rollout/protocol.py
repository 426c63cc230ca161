"""Define the interface that the algorithm and the evaluation need of an engine, independent of the library."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from megatron_pz.rl.experience import Decoding, Response


class Engine(Protocol):
    """A source of sampled responses: vLLM's engine, or transformers' generation."""

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
        """Sample n responses for each prompt. Sample k of a prompt is drawn with the prompt's seed plus k."""


class DecodingEngine(Engine, Protocol):
    """An engine whose ``decoding`` an evaluation chooses, within the engine's context."""

    @property
    def context(self) -> int:
        """Return the maximum number of tokens of a prompt and its response together."""
