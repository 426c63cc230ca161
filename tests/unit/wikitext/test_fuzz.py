"""The scanner on arbitrary input: no exception, no leftovers, linear time, the same result in both forms."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from megatron_pz.wikitext import scanner_form
from megatron_pz.wikitext.extract import KEEPABLE, wikitext_to_paragraphs
from megatron_pz.wikitext.localization import Wiki
from megatron_pz.wikitext.scanner_sources import source_sha256

MARKS = re.compile(r"[\x00-\x08\x0b-\x1f]")
LEFTOVERS = re.compile(r"\{\{|\}\}|\[\[|\]\]|\{\||<ref|''", re.IGNORECASE)
TEXT_LIKE_MARKUP = re.compile(r"<nowiki|<math|&#123;|(?<!\[)\[(?!\[)|(?<!\{)\{(?!\{)")
"""Sources of brackets and braces that are text: they may stand doubled in the output."""

# Every byte of a drawn string is one of these.
PIECES = [
    *"{{ }} {{{ }}} [[ ]] [ ] {| |} | |- || ! !! |+ = == == ' '' ''' < > <ref> </ref> <ref/> <ref <REF> <!-- --> "
    "<nowiki> </nowiki> <br> <sup> </sup> <sub> </sub> <math> </math> <table> </table> <div\tstyle='display:none'> "
    "</div> <gallery> </gallery> <li> <pre> </pre> & &amp; &amp;lt; &#123; &#0; &#xD800; &lt;ref ( ) （ ） ( ; , ) ; : "
    "* # File: Category: http://x [http://x [//x lang nowrap convert IPA quote ubl infobox gallery 1 2 a f é 東 "
    "e\u0301 \u200b \ud800 __TOC__ __ "
    "---- _ 1= x= {{lang|fr| {{convert| {{nowrap| [[File:a| {{IPA|x}} {{!}} {{infobox|a= "
    "<nowiki/> <q> </q> <ruby> <rt> </rt> <rp> </rp> {{plainlist| {{hlist| {{frac| {{#expr: {{unknown}}".split(" "),
    *[
        " ",
        "\n",
        "\n\n",
        "\t",
        "\n== References ==\n",
        "\n{|",
        "\n|}",
        "\n|",
        "\n!",
        "\n==",
        "\n*",
        "\x01",
        "\x07",
        "\x0e",
    ],
]
MARKUP = st.binary(max_size=48).map(lambda drawn: "".join(PIECES[byte % len(PIECES)] for byte in drawn))


@settings(max_examples=300, deadline=None)
@given(MARKUP)
@example("[''[")
@example("}<!-- -->}")
@example("&lt;ref")
@example("(&lt;ref>)")
@example("(&lt;ref; x, )")
@example("(" * 50 + ")" * 50)
@example("{{nowrap|" * 60 + "x" + "}}" * 60)
def test_any_input_gives_clean_paragraphs(wikitext: str) -> None:
    for paragraph in wikitext_to_paragraphs(wikitext):
        assert paragraph == paragraph.strip()
        assert paragraph
        assert "\n\n" not in paragraph
        assert not MARKS.search(paragraph), paragraph
        leftover = LEFTOVERS.search(paragraph)
        assert leftover is None or TEXT_LIKE_MARKUP.search(wikitext), (leftover, paragraph)


VANISHING = "{{sfn|A}} <ref>r</ref> {{IPA-fr|x}} [[File:a.jpg]] {{unknown}} {{coord|1|2|display=title}}".split(" ")


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.sampled_from(["word", "two words", "1950", *VANISHING]), min_size=1, max_size=5),
    st.sampled_from(["; ", ", "]),
)
def test_a_parenthesis_loses_the_parts_that_vanish(parts: list[str], separator: str) -> None:
    kept = [part for part in parts if part not in VANISHING]
    parenthesis = f" ({separator.join(kept)})" if kept else ""
    assert wikitext_to_paragraphs(f"It ({separator.join(parts)}) is.") == [f"It{parenthesis} is."]


@settings(max_examples=200, deadline=None)
@given(st.text(st.sampled_from("ab ,;:.()[]!?_"), max_size=20))
def test_a_text_without_markup_stays(text: str) -> None:
    """Only white space is normalised: a blank is one space, and is removed before punctuation and in parentheses."""
    source = f"a{text}z"
    (shown,) = wikitext_to_paragraphs(source)
    if "]]" not in source and "[[" not in source and "__" not in source:
        assert shown.replace(" ", "") == source.replace(" ", "")


@pytest.fixture(scope="module")
def compiled() -> scanner_form.ScanPage:
    """Return the compiled scanner, which must not be older than the source."""
    if scanner_form.FORM.startswith("interpreted") and "older" not in scanner_form.FORM:
        pytest.skip(f"there is no compiled scanner: {scanner_form.FORM}")
    assert scanner_form.FORM == "compiled"
    return scanner_form.scan_page


@settings(max_examples=300, deadline=None)
@given(wikitext=MARKUP, keep=st.sets(st.sampled_from(KEEPABLE)))
def test_both_forms_give_the_same(compiled: scanner_form.ScanPage, wikitext: str, keep: set[str]) -> None:
    found = []
    for scan_page in (compiled, scanner_form.load_interpreted()):
        dropped: dict[str, int] = {}
        lost: dict[str, int] = {}
        found.append((scan_page(wikitext, "T", Wiki(), frozenset(keep), dropped, lost), dropped, lost))
    assert found[0] == found[1]


@pytest.mark.parametrize("tail", ["-", "--", "---", "----", "{", "{|", "[", "=", "'", "&", "<", "|", "_", "#"])
def test_both_forms_stop_where_the_source_ends(compiled: scanner_form.ScanPage, tail: str) -> None:
    for wikitext in (tail, f"A sentence.\n{tail}", f"{{{{x|\n{tail}}}}}"):
        found = scanner_form.load_interpreted()(wikitext, "T", Wiki(), frozenset())
        assert compiled(wikitext, "T", Wiki(), frozenset()) == found


def test_a_compiled_form_that_is_older_than_its_source_is_not_used(
    monkeypatch: pytest.MonkeyPatch, compiled: scanner_form.ScanPage
) -> None:
    assert source_sha256(Path(scanner_form.__file__).with_name("scanner"))
    monkeypatch.setattr(scanner_form, "source_sha256", lambda directory: "another")
    module, form = scanner_form.choose()
    assert module is None
    assert form.startswith("interpreted, slow: the compiled one is older than its source")


@pytest.mark.parametrize(
    "piece",
    "{{|{{a|{{nowrap|x|}}|[[|[[a#]]|[http://x |<ref>|<ref|<!--|<math>|{#|\n{#|\n#}|'|''|(|( ; |[|]|&|<|<sup>|= |\n=|"
    "\n== a|\n*|__|a__|{{{|\x01|{{IPA}} , |us us |<div style='display:none'>|\n\n|a=|{{quote#|{{x}}|{{lang#a#"
    .split("|"),
)  # fmt: skip
def test_time_is_linear(piece: str) -> None:
    """Sixteen times the input takes about sixteen times as long; a quadratic scanner would take 256 times."""
    piece = piece.replace("#", "|")

    def seconds(repetitions: int) -> float:
        source = piece * repetitions
        start = time.process_time()
        wikitext_to_paragraphs(source)
        return time.process_time() - start

    size = 2000 if scanner_form.FORM == "compiled" else 250
    short = max(min(seconds(size) for _ in range(3)), 2e-4)
    assert min(seconds(16 * size) for _ in range(2)) < 80 * short


@pytest.mark.parametrize("character", "{}[]<>|=&'_(,\n*")
def test_a_million_of_one_character_is_no_trouble(character: str) -> None:
    million = 10**6 if scanner_form.FORM == "compiled" else 10**4
    start = time.process_time()
    wikitext_to_paragraphs(character * million)
    assert time.process_time() - start < 2
