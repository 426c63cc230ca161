"""Join the source files of the compiled scanner into one module.

``setup.py`` runs this file by its path, before there is a package to import.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from pathlib import Path

MODULES = (
    "buffer", "characters", "counting", "references", "frames", "state", "brackets", "tables", "unclosed",
    "braces", "angles", "closing", "lines", "holes", "paragraphs", "scan",
)  # fmt: skip
"""The scanner's modules in the order in which they import one another."""

COMPILED = "megatron_pz.wikitext.scanner_compiled"


def source_sha256(directory: Path) -> str:
    """Return the checksum of the scanner's files in ``directory``."""
    checksum = hashlib.sha256()
    for name in MODULES:
        for suffix in ("py", "pxd"):
            checksum.update((directory / f"{name}.{suffix}").read_bytes())
    return checksum.hexdigest()


def joined(directory: Path) -> tuple[str, str]:
    """Join the modules into one, and their C types likewise, and drop the imports between them.

    Raises:
        ValueError: Two of the modules use one name for different things.
    """
    code, types = ["from __future__ import annotations", f'SOURCE_SHA256 = "{source_sha256(directory)}"'], []
    defined: dict[str, str] = {}
    for name in MODULES:
        lines = (directory / f"{name}.py").read_text(encoding="utf-8").split("\n")
        for node in ast.parse("\n".join(lines)).body:
            for word, meaning in _defined(node, name):
                if defined.setdefault(word, meaning) != meaning:
                    raise ValueError(f"{word} is both {defined[word]} and {meaning}: rename one")
            if isinstance(node, ast.ImportFrom) and (node.level or node.module == "__future__"):
                assert node.end_lineno is not None
                lines[node.lineno - 1 : node.end_lineno] = [""] * (node.end_lineno - node.lineno + 1)
        code.append("\n".join(lines))
        declarations = (directory / f"{name}.pxd").read_text(encoding="utf-8").split("\n")
        types.append("\n".join(line for line in declarations if not line.startswith("from .")))
    return "\n".join(code), "\n".join(types)


def _defined(node: ast.stmt, module: str) -> Iterator[tuple[str, str]]:
    """Yield the names that a top-level statement of a module defines, each with its meaning."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        yield node.name, f"{module}.{node.name}"
    elif isinstance(node, ast.Assign):
        names = (name.id for target in node.targets for name in ast.walk(target) if isinstance(name, ast.Name))
        yield from ((name, f"{module}.{name}") for name in names)
    elif isinstance(node, ast.ImportFrom) and not node.level:
        yield from ((alias.asname or alias.name, f"{node.module}.{alias.name}") for alias in node.names)
