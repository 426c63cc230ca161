"""Look up versions of installed packages by their metadata, without importing them."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Iterable


def installed_version(distribution: str) -> str | None:
    """Return the version of a distribution, or None if it is not installed."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def installed_versions(distributions: Iterable[str]) -> dict[str, str]:
    """Return the versions of those distributions that are installed."""
    found = ((name, installed_version(name)) for name in distributions)
    return {name: version for name, version in found if version is not None}


def version_numbers(text: str | None) -> tuple[int, int] | None:
    """Return the first two numbers of a version: (2, 20) for "2.20.2+cu13"; None for None."""
    found = re.match(r"(\d+)\.(\d+)", text or "")
    return (int(found[1]), int(found[2])) if found else None
