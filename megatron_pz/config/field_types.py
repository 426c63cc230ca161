"""Define types of configuration fields whose annotations state their range."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge, Gt, Le

PositiveInt = Annotated[int, Ge(1)]
NonNegativeInt = Annotated[int, Ge(0)]
PositiveFloat = Annotated[float, Gt(0)]
NonNegativeFloat = Annotated[float, Ge(0)]
Seed = Annotated[int, Ge(0), Le(2**31 - 1)]
"""NumPy's seeds have 32 bits, and pipeline stages add to the run's seed."""
