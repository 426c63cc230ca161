"""Versions compare as numbers."""

from __future__ import annotations

import pytest

from megatron_pz.runtime.versions import version_numbers


@pytest.mark.parametrize(
    ("text", "numbers"), [("13.0", (13, 0)), ("2.20.2+cu13", (2, 20)), ("12.9", (12, 9)), (None, None), ("dev", None)]
)
def test_versions_compare_as_numbers(text: str | None, numbers: tuple[int, int] | None) -> None:
    assert version_numbers(text) == numbers
