"""Format tables as plain text, for terminals and log files."""

from __future__ import annotations

import io
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

WIDTH = 200
"""Width in characters, large enough that nothing is folded or cut on any terminal."""


def table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Format rows under a header, the first column left-aligned, the others right-aligned, without a final newline."""
    grid = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", title_style="", header_style="")
    for index, name in enumerate(header):
        grid.add_column(Text(name), justify="left" if index == 0 else "right", no_wrap=True)
    for row in rows:
        grid.add_row(*(Text(cell) for cell in row))
    page = io.StringIO()
    Console(file=page, width=WIDTH, no_color=True, highlight=False).print(grid)
    return "\n".join(line.rstrip() for line in page.getvalue().rstrip().splitlines())
