"""Recipes by name only."""

from __future__ import annotations

import enum
from typing import Any


class Format(enum.Enum):
    E4M3 = "e4m3"
    HYBRID = "hybrid"


class Recipe:
    def __init__(self, **settings: Any) -> None:
        self.settings = settings


class DelayedScaling(Recipe):
    pass


class Float8CurrentScaling(Recipe):
    pass


class Float8BlockScaling(Recipe):
    pass


class MXFP8BlockScaling(Recipe):
    pass
