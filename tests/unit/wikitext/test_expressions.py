"""Expressions of MediaWiki's #expr: those that are not computed are empty, and none raises."""

from __future__ import annotations

import sys

import pytest

from megatron_pz.wikitext.templates.expressions import value_of


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2*3+1", "7"),
        ("((1 + 2) * (3 + 4)) / 3", "7"),
        ("(" * 80, ""),
        ("not " * 20, ""),
        ("-" * 80, ""),
        ("5 mod 0", ""),
    ],
)
def test_expressions_are_computed_or_empty(text: str, value: str) -> None:
    assert value_of(text) == value


def test_nesting_does_not_exhaust_the_stack() -> None:
    """A page is read at an unknown depth of calls, and reading it never raises."""

    def at_depth(calls: int) -> str:
        return at_depth(calls - 1) if calls else value_of("(" * 80)

    assert at_depth(sys.getrecursionlimit() - 300) == ""
