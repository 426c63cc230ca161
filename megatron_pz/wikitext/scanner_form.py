"""Choose the form of the scanner: the compiled one if it matches its source, otherwise the interpreted one.

``setup.py`` joins the files of :mod:`megatron_pz.wikitext.scanner` into one module and compiles it with Cython and a C
compiler to ``scanner_compiled``. That module has the checksum of its source, so that an outdated one is never used. The
interpreted form then runs, about forty times as slow and with the same results, and :data:`FORM` has the reason.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Protocol

from megatron_pz.wikitext.scanner_sources import COMPILED, source_sha256

if TYPE_CHECKING:
    from megatron_pz.wikitext.localization import Wiki


class ScanPage(Protocol):
    """The type of the scanner's entry point, :func:`megatron_pz.wikitext.scanner.scan.scan_page`."""

    def __call__(
        self,
        text: str,
        title: str,
        wiki: Wiki,
        keeps: frozenset[str],
        dropped: dict[str, int] | None = None,
        lost: dict[str, int] | None = None,
    ) -> list[str]:
        """Return the paragraphs of a page."""
        ...


_REBUILD = "run examples/setup_environment.sh, or pip install -e . with Cython and a C compiler"


def choose() -> tuple[ModuleType | None, str]:
    """Load the compiled form; return it, or None if it cannot be used, and a description of the form and the reason."""
    try:
        compiled = importlib.import_module(COMPILED)
    except ImportError:
        reason = f"not compiled on installation ({_REBUILD})"
    else:
        if source_sha256(Path(__file__).with_name("scanner")) == compiled.SOURCE_SHA256:
            return compiled, "compiled"
        reason = f"the compiled one is older than its source ({_REBUILD})"
    return None, f"interpreted, slow: {reason}"


def load_interpreted() -> ScanPage:
    """Load the interpreted form, even if there is a compiled one."""
    return importlib.import_module("megatron_pz.wikitext.scanner.scan").scan_page


compiled, FORM = choose()
"""The compiled form or None, and a description of the running form with the reason for it."""
scan_page: ScanPage = compiled.scan_page if compiled else load_interpreted()
marked_inline: Callable[[str, str, Wiki], str] = (
    compiled.marked_inline if compiled else importlib.import_module("megatron_pz.wikitext.scanner.scan").marked_inline
)
"""Return the marked text of a template's expansion."""
is_simply_spaced: Callable[[str], bool] = (
    compiled.is_simply_spaced
    if compiled
    else importlib.import_module("megatron_pz.wikitext.scanner.counting").is_simply_spaced
)
"""Return whether only spaces separate the words of a text; false if that needs a closer look."""
words_of: Callable[[str], int] = (
    compiled.words_of if compiled else importlib.import_module("megatron_pz.wikitext.scanner.counting").words_of
)
"""Return the number of words of a text."""
unescaped: Callable[[bytes], bytearray | None] | None = compiled.unescaped if compiled else None
"""Resolve XML's references; None in the interpreted form, which is slower than an XML parser."""
