"""Digits are grouped as on each wiki; examples by hand from MediaWiki's messages."""

from __future__ import annotations

import time

import pytest

from megatron_pz.wikitext import wiki_names
from megatron_pz.wikitext.extract import wikitext_to_paragraphs
from megatron_pz.wikitext.localization import Wiki
from megatron_pz.wikitext.templates.numbers import _formats, local_number


@pytest.mark.parametrize(
    ("language", "shown"),
    [
        ("en", "1,234 12,345 1,234,567.5 −5 12a"),
        ("de", "1.234 12.345 1.234.567,5 −5 12a"),
        ("fr", "1 234 12 345 1 234 567,5 −5 12a"),
        ("es", "1234 12 345 1 234 567,5 −5 12a"),
        ("ja", "1,234 12,345 1,234,567.5 −5 12a"),
        ("hi", "1234 12345 1234567.5 −5 12a"),
        ("ar", "1234 12345 1234567.5 −5 12a"),
    ],
)
def test_formatnum(language: str, shown: str) -> None:
    numbers = " ".join(f"{{{{formatnum:{number}}}}}" for number in ("1234", "12345", "1234567.5", "−5", "12a"))
    assert wikitext_to_paragraphs(numbers, "T", Wiki(language)) == [shown]


def test_digits_are_grouped_in_linear_time() -> None:
    start = time.process_time()
    shown = local_number("1" * 20_000, "en")
    assert time.process_time() - start < 0.5  # 3 s if each position scans all following digits
    assert shown.startswith("11,111,") and shown.count(",") == 6_666


def test_every_wiki_has_one_form() -> None:
    listed = [code for name in ("space", "dot", "comma") for code in _formats()[name].split()]
    assert len(listed) == len(set(listed))
    assert set(listed) <= wiki_names.language_codes()
    for code in listed:
        assert local_number("1234567.5", code) != "1234567.5", code
    for code in _formats()["four_together"].split():
        assert local_number("1234", code) == "1234"


def test_numbers_may_stay_raw() -> None:
    source = "It is {{formatnum:1,234|R}} so. Or {{formatnum:1,234|X}} so. End."
    assert wikitext_to_paragraphs(source) == ["It is 1234 so. End."]


@pytest.mark.parametrize(
    ("language", "wikitext", "text"),
    [
        ("es", "Mide {{convert|1300.5|m|ft}}.", "Mide 1300,5 m."),
        ("de", "Es sind {{convert|1300|m|ft}} und {{FormatNum|12345}}.", "Es sind 1.300 m und 12.345."),
        ("fr", "Il a {{unité|12345.6|habitants}}.", "Il a 12 345,6 habitants."),
        ("ru", "Там {{num|50000|кг}} и {{число|1234}}.", "Там 50 000 кг и 1234."),
        ("it", "Sono {{M|12345.6|u=km}}.", "Sono 12 345,6 km."),
        ("es", "Son {{unidad|1234.5|m|2}}.", "Son 1234,5 m²."),
        ("es", "Son {{unidad|12345,6|km}}.", "Son 12 345,6 km."),
        ("fr", "Il a {{unité|1234,5|m|2}} ici.", "Il a 1 234,5 m² ici."),
        ("it", "Il monte ({{M|1234|ul=m s.l.m.}}) è.", "Il monte (1 234 m s.l.m.) è."),
    ],
)
def test_quantities_have_the_wikis_digits(language: str, wikitext: str, text: str) -> None:
    assert wikitext_to_paragraphs(wikitext, "T", Wiki(language)) == [text]
