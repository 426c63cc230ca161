"""Flags of the small tools: argparse, with a wrong flag told in one line like every other bad input."""

from __future__ import annotations

import argparse
from typing import NoReturn

from megatron_pz.runtime.errors import BadInput


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Tells the defaults that are values; that a flag may be left out is seen from the usage."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default in (None, "", False) else super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """An argument parser whose complaints are :class:`BadInput`. Flags cannot be abbreviated."""

    def __init__(self, description: str, *, add_help: bool = True) -> None:
        super().__init__(
            description=description,
            add_help=add_help,
            allow_abbrev=False,
            formatter_class=_Help,
        )

    def error(self, message: str) -> NoReturn:
        """Called by argparse for what it cannot parse."""
        raise BadInput(f"{message} (--help lists the flags)")
