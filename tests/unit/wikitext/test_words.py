"""Other functions of the compiled scanner's module, in both forms, compared with Python's own functions."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from megatron_pz.wikipedia.read.page import PageError, _unescape
from megatron_pz.wikitext import scanner_form
from megatron_pz.wikitext.scanner import counting, references

FORMS = [None, scanner_form.compiled] if scanner_form.compiled else [None]


@given(st.text(st.sampled_from(" \nabé東𝒳\ud800"), max_size=40))
def test_words_are_what_splitting_gives(text: str) -> None:
    for form in FORMS:
        assert (form or counting).words_of(text) == len(text.split())


PIECES = ["&lt;", "&gt;", "&quot;", "&amp;", "&apos;", "a", "<", "é", "東", "lt;", ";", "&amp;lt;"]


@given(st.lists(st.sampled_from(PIECES), max_size=12).map("".join))
def test_references_with_names_are_resolved(escaped: str) -> None:
    named = {"&lt;": "<", "&gt;": ">", "&quot;": '"', "&apos;": "'"}
    expected = escaped
    for reference, character in named.items():
        expected = expected.replace(reference, character)
    expected = expected.replace("&amp;", "&")
    for form in FORMS:
        found = (form or references).unescaped(escaped.encode())
        assert found is not None
        assert found.decode() == expected


@given(st.lists(st.sampled_from([*PIECES, "&#65;", "&nbsp;", "&", "&l", "&quot"]), max_size=8).map("".join))
@example("&")
@example("&am")
def test_any_other_reference_is_left_to_an_xml_parser(escaped: str) -> None:
    found = [(form or references).unescaped(escaped.encode()) for form in FORMS]
    assert all(text == found[0] for text in found)
    plain = escaped
    for reference in PIECES[:5]:
        plain = plain.replace(reference, "\0")
    assert (found[0] is None) == ("&" in plain)


@pytest.mark.parametrize(("escaped", "shown"), [("a&#65;&amp;", "aA&"), ("&lt;\r\n&gt;", "<\n>"), ("é&quot;", 'é"')])
def test_a_text_is_read_as_an_xml_parser_does(escaped: str, shown: str) -> None:
    assert _unescape(escaped.encode()) == shown


@pytest.mark.parametrize("damaged", [b"a &nbsp; b", b"a & b", b"\xff &amp;", b"\xff"])
def test_what_is_no_xml_is_an_error(damaged: bytes) -> None:
    with pytest.raises(PageError, match="is not XML in UTF-8"):
        _unescape(damaged)
