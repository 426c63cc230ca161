"""Choose by name how benchmarks are asked and graded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from megatron_pz.question_answering import authors, general_reasoner
from megatron_pz.question_answering.benchmarks import BENCHMARKS
from megatron_pz.question_answering.protocol import Protocol
from megatron_pz.runtime.errors import BadInput


@dataclass(frozen=True)
class Recipe:
    """A way of asking and grading that covers all benchmarks."""

    name: str
    make: Callable[[str, Path | None], Protocol]

    def protocol(self, benchmark: str, directory: Path | None = None) -> Protocol:
        """Return the protocol of a benchmark.

        Args:
            benchmark: One of :data:`BENCHMARKS`.
            directory: The benchmarks' directory, for recipes that show worked examples from a file.

        Raises:
            BadInput: The benchmark is unknown, or its worked examples are missing.
        """
        if benchmark not in BENCHMARKS:
            raise BadInput(f"no benchmark {benchmark!r}; there are {', '.join(BENCHMARKS)}")
        return self.make(benchmark, directory)


def recipe(name: str) -> Recipe:
    """Return a recipe by its name. Raise BadInput for an unknown name."""
    if name not in RECIPES:
        raise BadInput(f"no recipe {name!r}; there are {', '.join(RECIPES)}")
    return RECIPES[name]


RECIPES: Final[Mapping[str, Recipe]] = {
    "general_reasoner": Recipe("general_reasoner", lambda benchmark, directory: general_reasoner.protocol(benchmark)),
    "authors": Recipe("authors", authors.protocol),
}
