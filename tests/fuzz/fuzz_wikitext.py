#!/usr/bin/env python
"""Fuzz the wikitext scanner, guided by coverage, with atheris in a separate environment:

    python3.11 -m venv .cache/fuzz && .cache/fuzz/bin/pip install atheris
    PYTHONPATH=. .cache/fuzz/bin/python tests/fuzz/fuzz_wikitext.py -max_total_time=120

The interpreted form is instrumented; the compiled one, if present, must give the same result. A finding is written to
crash-… in the current folder; the same command with that file's name reproduces it. Arguments are libFuzzer's.
"""

from __future__ import annotations

import re
import sys
import time

import atheris

with atheris.instrument_imports(include=["megatron_pz"]):
    from megatron_pz.wikitext import scanner_form
    from megatron_pz.wikitext.extract import KEEPABLE
    from megatron_pz.wikitext.localization import Wiki

    interpreted = scanner_form.load_interpreted()

LEFTOVERS = re.compile(r"\{\{|\}\}|\[\[|\]\]|\{\||<ref|''|[\x00-\x08\x0b-\x1f]", re.IGNORECASE)
TEXT_LIKE_MARKUP = re.compile(
    r"<nowiki|<math|<chem|<ce|inline|&|(?<!\[)\[(?!\[)|\[\[[^][|\n]*(?:\[|\](?!\]))"  # [[1, 2], [3, 4]]
    r"|(?<!\{)\{(?!\{)|(?<![}|])\}(?!\})",
    re.IGNORECASE,
)
SECONDS_A_CHARACTER = 2e-4
WIKI = Wiki()

# Building blocks of the input: a byte below 128 is the character, a byte above it is one of these.
TOKENS = [
    *"{{ }} {{{ }}} [[ ]] {| |} |- || !! |+ == '' ''' ''''' <ref> </ref> <ref/> <!-- --> <nowiki> </nowiki> <br/> "
    "<sup> </sup> <math> </math> <table> </table> <gallery> </gallery> <pre> </pre> <li> &amp; &nbsp; &lt;ref &#123; "
    "File: Category: [http://x {{lang|fr| {{convert|1|km}} {{IPA|x}} {{infobox|a= {{quote| {{ubl| __TOC__ （ ） é 東 "
    "\u0301 \x01".split(" "),
    *["\n\n", "\n== References ==\n", "\n{|\n", "\n|}", "\n* "],
]


def wikitext_of(data: bytes) -> tuple[str, frozenset[str]]:
    """Return the wikitext of an input and the kept parts, which the first byte selects."""
    keep = frozenset(name for bit, name in enumerate(KEEPABLE) if data[:1] and data[0] >> bit & 1)
    text = "".join(chr(byte) if byte < 128 else TOKENS[(byte - 128) % len(TOKENS)] for byte in data[1:])
    return text, keep


def check(data: bytes) -> None:
    text, keep = wikitext_of(data)
    start = time.process_time()
    paragraphs = interpreted(text, "Title", WIKI, keep)
    seconds = time.process_time() - start
    assert seconds < 0.5 + SECONDS_A_CHARACTER * len(text), f"{seconds:.2f} s for {len(text)} characters"
    if scanner_form.FORM == "compiled":
        assert paragraphs == scanner_form.scan_page(text, "Title", WIKI, keep), "the compiled form differs"
    assert all(paragraphs), "an empty paragraph"
    if "code" not in keep and not TEXT_LIKE_MARKUP.search(text):
        leftovers = [found[0] for paragraph in paragraphs if (found := LEFTOVERS.search(paragraph))]
        assert not leftovers, f"left over: {leftovers}"


if __name__ == "__main__":
    print(f"scanner: {scanner_form.FORM}", file=sys.stderr)
    atheris.Setup(sys.argv, check)
    atheris.Fuzz()
