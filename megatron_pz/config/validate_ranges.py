"""Check the range that each field's annotation in :mod:`megatron_pz.config.schema` states."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator
from functools import cache
from typing import Any, get_type_hints

from annotated_types import Ge, Gt, Le, Lt

_BOUNDS = {
    Ge: ("at least", operator.ge),
    Gt: ("above", operator.gt),
    Le: ("at most", operator.le),
    Lt: ("below", operator.lt),
}


def flag(name: str) -> str:
    """Return the command line's name of a field."""
    return f"--{name.replace('_', '-')}"


def field_types(section: Any, *, include_extras: bool = False) -> dict[str, Any]:
    """Return the annotation of each field of a section's class, with its bounds where ``include_extras`` is set."""
    return _resolved_types(section, include_extras)


@cache
def _resolved_types(section: Any, include_extras: bool) -> dict[str, Any]:
    return get_type_hints(section, include_extras=include_extras)  # takes a millisecond, and planners ask 8,000 times


def range_rules(section: Any) -> Iterator[tuple[bool, str]]:
    """Yield (whether it holds, the complaint where it does not) for every bounded or floating-point field.

    Args:
        section: a section of the configuration. pydantic checks the same annotations as it reads a YAML file; flags
            and sections that a program builds are checked only here.
    """
    for name, hint in field_types(type(section), include_extras=True).items():
        value = getattr(section, name)
        if isinstance(value, float):
            yield math.isfinite(value), f"{flag(name)} {value}: give a finite number"
        bounds = [
            (*_BOUNDS[type(bound)], getattr(bound, type(bound).__name__.lower()))
            for bound in getattr(hint, "__metadata__", ())
        ]
        if bounds:
            holds = all(compare(value, limit) for _, compare, limit in bounds)
            allowed = " and ".join(f"{words} {limit}" for words, _, limit in bounds)
            yield holds, f"{flag(name)} {value}: must be {allowed}"
