"""Every row of the tables under data/ is used, and has one meaning."""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from megatron_pz.wikitext import language_data, tags, templates
from megatron_pz.wikitext.extract import wikitext_to_paragraphs
from megatron_pz.wikitext.localization import Wiki
from megatron_pz.wikitext.marks import DROPPED, SOUND, UNKNOWN
from megatron_pz.wikitext.templates import patterns
from megatron_pz.wikitext.templates.unit_codes import unit_of

LANGUAGES = language_data.languages()
UNITS = tomllib.loads((language_data.DIRECTORY.parent / "units" / "en.toml").read_text(encoding="utf-8"))


def file_of(language: str) -> dict[str, Any]:
    return dict(language_data.language_file(language)["templates"])


def names_of(language: str) -> list[str]:
    file = file_of(language)
    tables = (*file.get("text", {}).values(), *file.get("computed", {}).values())
    return [*file.get("wordless", []), *file.get("sounds", []), *(name for names in tables for name in names)]


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_name_stands_once_and_as_pages_are_compared(language: str) -> None:
    names = names_of(language)
    assert [name for name, count in Counter(names).items() if count > 1] == []
    assert [name for name in names if templates.template_name(name.strip("*")) != name.strip("*").strip()] == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_row_says_what_its_templates_are(language: str) -> None:
    file = file_of(language)
    shown = [*file.get("text", {}).values(), *file.get("computed", {}).values()]
    ships = file.get("computed", {}).get("ship", [])
    for name in (name for names in shown for name in names):
        example = name.replace("*", "x")
        if name in ships:
            assert templates.name_and_mark(name.upper(), False, language) == (name, "")
            continue
        assert templates.name_and_mark(example, False, language) == (example, ""), name
    for mark, names in ((DROPPED, file.get("wordless", [])), (SOUND, file.get("sounds", []))):
        for name in names:
            example = name.replace("*", "x") if "*" in name else name
            assert templates.name_and_mark(example, False, language) == ("", mark), name
    assert templates.name_and_mark("no such template", False, language) == ("", UNKNOWN)


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_text_can_be_shown(language: str) -> None:
    given = {str(number): f"v{number}" for number in range(1, 5)}
    given |= dict.fromkeys(
        [
            "d",
            "b",
            "j",
            "hg",
            "term",
            "title",
            "תוכן",
            "text",
            "texte",
            "content",
            "lt",
            "label",
            "station",
            "l",
            "equation",
            "de",
            "Text",
            "Übersetzung",
            "текст",
        ],
        "v0",
    )
    for pattern in file_of(language).get("text", {}):
        last = re.search(r"\{(\d)!\}", pattern)  # no positional parameter may follow this one
        few = {name: value for name, value in given.items() if last and name.isdecimal() and name <= last[1]}
        shown = patterns.compiled(pattern)(few or given)
        if "{" in pattern or not pattern.strip() or pattern == "<br>":
            assert shown != patterns.UNREAD, pattern
            assert ("{" in pattern) == any(value in shown for value in given.values()), pattern
        else:  # a word without arguments is not understood with one
            assert shown == patterns.UNREAD, pattern
            assert patterns.compiled(pattern)({}).strip(), pattern


def test_every_function_has_a_row_and_every_row_a_function() -> None:
    named = {name for language in LANGUAGES for name in file_of(language).get("computed", {})}
    assert named == set(templates.FUNCTIONS)


@pytest.mark.parametrize("pattern", ["{1", "[{1}", "{1}]", "[[{1}]]", "{1||2}", "{}"])
def test_a_broken_text_is_refused(pattern: str) -> None:
    if pattern == "{1":
        assert patterns.compiled(pattern)({}) == "{1"
        return
    with pytest.raises(ValueError, match=r"optional part|without|name"):
        patterns.compiled(pattern)


def test_every_unit_is_found_by_its_code() -> None:
    for table in ("metric", "others"):
        for code, (sign, one, several) in UNITS[table].items():
            unit = unit_of(code)
            assert unit is not None, code
            if table == "others" or code not in UNITS["others"]:
                assert (unit.sign, unit.one, unit.several) == (sign, one, several), code
    for code, sign in UNITS["temperatures"].items():
        unit = unit_of(code)
        assert unit is not None and unit.sign == sign, code
    for prefix, name in UNITS["prefixes"].items():
        unit = unit_of(f"{prefix}W")
        assert unit is not None and unit.one == f"{name}watt", prefix
    for code, (_, one, _) in UNITS["lengths"].items():
        unit = unit_of(f"{code}2")
        assert unit is not None and unit.one == f"square {one}", code


def test_every_label_stands_before_its_language() -> None:
    path = language_data.DIRECTORY.parent / "language_labels.toml"
    for wiki, rows in tomllib.loads(path.read_text(encoding="utf-8")).items():
        for code, name in rows["names"].items():
            shown = wikitext_to_paragraphs(f"Aa {{{{lang-{code}|bb}}}} cc.", wiki=Wiki(language=wiki))
            assert shown == [f"Aa {rows['pattern'].format(name=name, text='bb')} cc."], (wiki, code)


def test_every_currency_has_a_sign_of_its_own() -> None:
    for sign, names in language_data.language_file("en")["currencies"].items():
        for name in names:
            shown = wikitext_to_paragraphs(f"It cost {{{{currency|5|{name}}}}} then.")
            assert shown == [f"It cost {sign}5 then."], name


def test_every_particle_has_a_sign() -> None:
    for sign, names in language_data.language_file("en")["particles"].items():
        for name in names:
            shown = wikitext_to_paragraphs(f"It is {{{{subatomic particle|{name}|link=yes}}}} there.")
            assert shown == [f"It is {sign} there."], name


def test_every_road_is_named() -> None:
    for place, forms in language_data.language_file("en")["roads"].items():
        name = "state" if len(place) == 2 else "country"
        for kind, form in forms.items():
            shown = wikitext_to_paragraphs(f"It is {{{{jct|{name}={place}|{kind}|5}}}} there.")
            assert shown == [f"It is {form.format(5)} there."], (place, kind)


def test_every_magic_word_vanishes_and_others_stay() -> None:
    path = Path(tags.__file__).with_name("data") / "magic_words.txt"
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    words = [word for line in lines for word in line.split()]
    assert len(words) == len(set(words))
    for word in words:
        assert wikitext_to_paragraphs(f"a __{word}__ b") == ["a b"], word
    assert wikitext_to_paragraphs("a __FILE__ __init__ __LINE__ b", wiki=Wiki()) == ["a __FILE__ __init__ __LINE__ b"]
