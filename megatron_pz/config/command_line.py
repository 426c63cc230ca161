"""Parse the flags of the small tools with argparse; a wrong flag is reported in one line."""

from __future__ import annotations

import argparse
from typing import NoReturn

from megatron_pz.runtime.errors import BadInput


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Shows defaults that are values; the usage line shows which flags are optional."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default in (None, "", False) else super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """An argument parser that raises :class:`BadInput`. Flags cannot be abbreviated."""

    def __init__(self, description: str, *, add_help: bool = True) -> None:
        super().__init__(
            description=description,
            add_help=add_help,
            allow_abbrev=False,
            formatter_class=_Help,
        )

    def error(self, message: str) -> NoReturn:
        """Raise BadInput; argparse calls this for flags that it cannot parse."""
        raise BadInput(f"{message} (--help lists the flags)")
