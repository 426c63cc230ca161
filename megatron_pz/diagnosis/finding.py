"""Hold the results of the probes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Mark = Literal["ok", "absent", "note", "problem"]


@dataclass(frozen=True)
class Finding:
    """One line of the table."""

    subject: str
    mark: Mark
    found: str
    remark: str = ""
    """The meaning of the finding, or the next step."""


@dataclass(frozen=True)
class Diagnosis:
    """All findings, and what can run here."""

    findings: tuple[Finding, ...]
    path: Literal["gpu", "cpu", "none"]
    """The configurations that can run here."""

    @property
    def problems(self) -> tuple[str, ...]:
        """Return one line for each problem."""
        return tuple(f"{f.subject}: {f.found}; {f.remark}" for f in self.findings if f.mark == "problem")
