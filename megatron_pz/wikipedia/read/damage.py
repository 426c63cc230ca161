"""Handle damage in the inputs, which ends the run or is skipped and recorded."""

from __future__ import annotations

from dataclasses import dataclass

from megatron_pz.runtime.errors import BadInput


@dataclass(frozen=True, order=True)
class Damage:
    """One damaged place of an input file, with the loss of its stream, page or line."""

    path: str
    offset: int
    """Byte of the file where the damaged stream, page or line begins, or where the file ends too early."""
    reason: str


class DamagedInput(BadInput):
    """An input is damaged, and damage is not skipped."""

    def __init__(self, damage: Damage) -> None:
        super().__init__(damage)

    def __str__(self) -> str:
        damage: Damage = self.args[0]
        return (
            f"{damage.path}: {damage.reason}; download it again, or give --skip-damaged to continue without that part"
        )


class DamageLog:
    """Receives the damage reports of readers.

    Args:
        skip: Record damage; otherwise :meth:`report` raises :class:`DamagedInput`.
    """

    def __init__(self, skip: bool = False) -> None:
        self._skip = skip
        self.found: list[Damage] = []

    def report(self, path: str, offset: int, reason: str) -> None:
        damage = Damage(path, offset, reason)
        if not self._skip:
            raise DamagedInput(damage)
        self.found.append(damage)
