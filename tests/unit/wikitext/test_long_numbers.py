"""Numbers of thousands of digits, which Python's ``int`` refuses, stop no page."""

from __future__ import annotations

import time

import pytest

from megatron_pz.wikitext.extract import wikitext_to_paragraphs
from megatron_pz.wikitext.language_data import template_rows
from megatron_pz.wikitext.localization import is_redirect
from megatron_pz.wikitext.templates import render

LONG = "1" * 5000
FIELDS = [
    (LONG,),
    ("1990", LONG),
    ("1990", "1", LONG),
    ("1", LONG, "1990"),
    (LONG,) * 6,
    ("1990", "1", "1", LONG, "1", "1"),
    (f"-{LONG}",),
    ("5", "ft", LONG, "in"),
    (LONG, "to", f"-{LONG}", "m"),
]
NAMED: list[dict[str, str]] = [{}, {"fmt": "commas", "e": LONG}]


@pytest.mark.parametrize("language", ["en", "de", "fr", "es", "it", "ru", "ja"])
def test_no_template_raises(language: str) -> None:
    for name in template_rows(language).computed:
        for fields in FIELDS:
            for named in NAMED:
                numbered = {str(place): field for place, field in enumerate(fields, 1)}
                assert isinstance(render(name, name, numbered | named, language, ""), str)


@pytest.mark.parametrize("unit", ["m" + "/m" * 2000, "e3" * 2000 + "m"])
def test_a_long_unit_is_not_understood(unit: str) -> None:
    assert wikitext_to_paragraphs(f"It is {{{{convert|5|{unit}}}}} so. End.") == ["End."]


@pytest.mark.parametrize("text", ["#" + " " * 20_000, "#a" + " " * 20_000 + ":" + " " * 20_000, "#\n" * 10_000])
def test_what_is_almost_a_redirect_is_read_in_linear_time(text: str) -> None:
    start = time.process_time()
    assert not is_redirect(text, "en")
    assert time.process_time() - start < 0.5
    assert is_redirect("#\n REDIRECT  :\n [[x]]", "en")
