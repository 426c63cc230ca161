"""Check the ranges in the annotations of :mod:`megatron_pz.config.schema`, and the characters of text fields."""

from __future__ import annotations

import dataclasses
import math
import operator
import re
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
_NO_TEXT = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
"""Control characters, line breaks, and Python's surrogates for bytes that are not UTF-8."""
_WITH_LINE_BREAKS = ("response_stop",)


def flag(name: str) -> str:
    """Return the command-line flag of a field."""
    return f"--{name.replace('_', '-')}"


def field_types(section: Any, *, include_extras: bool = False) -> dict[str, Any]:
    """Return the annotation of each field of a section's class, with its bounds if ``include_extras`` is set."""
    return _resolved_types(section, include_extras)


@cache
def _resolved_types(section: Any, include_extras: bool) -> dict[str, Any]:
    return get_type_hints(section, include_extras=include_extras)  # a call takes 1 ms, and planners make 8,000


def range_rules(section: Any) -> Iterator[tuple[bool, str]]:
    """Yield (whether it holds, the error message if not) for every bounded or floating-point field.

    Args:
        section: a section of the configuration. pydantic checks the same annotations when it reads a YAML file; flags
            and sections built by a program are checked only here.
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


def text_rules(section: Any) -> Iterator[tuple[bool, str]]:
    """Yield the same for every text field and list of texts: a line break in a path would break logs and scripts."""
    for field in dataclasses.fields(section):
        value = getattr(section, field.name)
        entries = value if isinstance(value, tuple) else (value,) if isinstance(value, str) else ()
        if isinstance(value, tuple):
            yield "" not in value, f"{flag(field.name)}: holds an empty string; leave it out"
        if field.name in _WITH_LINE_BREAKS:
            continue
        for entry in entries:
            complaint = (
                f"{flag(field.name)} {entry!r}: holds a line break, a control character or bytes that are not UTF-8"
            )
            yield not _NO_TEXT.search(entry), complaint
