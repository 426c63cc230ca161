"""The tables of names: every row has an effect, on titles, links and pages."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from megatron_pz.wikitext import wiki_names
from megatron_pz.wikitext.extract import wikitext_to_paragraphs
from megatron_pz.wikitext.localization import (
    DisambiguationTemplates,
    Namespaces,
    Wiki,
    has_disambiguation_word,
    is_disambiguation_title,
    is_list_title,
    is_redirect,
)

TABLES = {
    "file", "category", "template", "other_namespaces", "redirect", "closing_sections", "disambiguation_templates",
    "not_disambiguation_templates", "disambiguation_words", "disambiguation_titles", "list_titles",
}  # fmt: skip


def rows(table: str) -> Iterator[tuple[str, str]]:
    """Yield (language, row) of a table in all files."""
    for language in wiki_names.languages():
        for row in wiki_names._file(language).get(table, ()):
            yield language, row


def test_files_hold_known_tables_of_known_languages() -> None:
    for language in wiki_names.languages():
        assert language in wiki_names.language_codes()
        assert set(wiki_names._file(language)) <= TABLES
        for table in wiki_names._file(language).values():
            assert len(table) == len(set(table)), language


def test_every_namespace_name_silences_a_link() -> None:
    for table in ("file", "category"):
        for language, row in rows(table):
            text = wikitext_to_paragraphs(f"a [[{row}:x.jpg|y]] b", "T", Wiki(language))
            assert text == ["a b"], (language, row)


def test_every_template_namespace_is_known_by_title() -> None:
    for language, row in rows("template"):
        assert Namespaces(language, {}).number_of(f"{row}:Foo") == 10, (language, row)
        assert f"{row}:disambiguation" in DisambiguationTemplates(language)


def test_a_title_in_another_namespace_is_no_article() -> None:
    for language, row in rows("other_namespaces"):
        assert Namespaces(language, {}).number_of(f"{row}:Foo") != 0, (language, row)
    assert Namespaces("de", {}).number_of("CSI: Miami") == Namespaces("nl", {}).number_of("Diskussion:A") == 0
    assert Namespaces("de", {100: "Modul"}).number_of("Modul:A") == 100


@pytest.mark.parametrize(
    ("language", "title"),
    [
        ("ro", "Discuție:A"), ("ro", "Discuţie_Utilizator:A"), ("bn", "আলাপ:A"), ("el", "Συζήτηση χρήστη:A"),
        ("da", "Brugerdiskussion:A"), ("nn", "Diskusjon:A"), ("ca", "Viquipèdia:A"), ("cs", "Diskuse k souboru:A"),
        ("simple", "Image talk:A"), ("ta", "பேச்சு:A"), ("be-tarask", "Абмеркаваньне шаблёну:A"),
        ("fiu-vro", "Pruukja:A"), ("nds-nl", "Overleg kattegerie:A"), ("rsk", "Хаснователь:A"),
    ],
)  # fmt: skip
def test_talk_and_other_pages_need_no_number_and_no_siteinfo(language: str, title: str) -> None:
    assert Namespaces(language, {}).number_of(title) != 0


def test_every_redirect_word_redirects() -> None:
    for language, row in rows("redirect"):
        for word in (row, row.lower(), row.upper()):
            assert is_redirect(f"#{word} [[x]]", language), (language, word)
            assert is_redirect(f"\n# {word}: [[x]]", language), (language, word)


def test_every_closing_section_of_links_is_dropped() -> None:
    for language, row in rows("closing_sections"):
        text = wikitext_to_paragraphs(f"Prose.\n== {row} ==\n* [[link]]\n* [[other]]\n", "T", Wiki(language))
        assert text == ["Prose."], (language, row)


def test_every_disambiguation_template_counts() -> None:
    for language, row in rows("disambiguation_templates"):
        assert row.replace("*", "school") in DisambiguationTemplates(language), (language, row)
    for language, row in rows("not_disambiguation_templates"):
        assert row not in DisambiguationTemplates(language), (language, row)


def test_every_disambiguation_word_counts() -> None:
    for language, row in rows("disambiguation_words"):
        assert has_disambiguation_word(f"text __{row}__", language), (language, row)
    for language, word in (("fr", "HOMONYMIE"), ("ja", "曖昧さ回避"), ("no", "PEKER"), ("he", "דף_פירושונים")):
        assert has_disambiguation_word(f"text __{word}__", language), (language, word)
    assert not has_disambiguation_word("text __NOTOC__ disambig", "en")


def test_every_title_row_counts() -> None:
    for _, row in rows("disambiguation_titles"):
        assert is_disambiguation_title(f"Foo ({row})")
    for _, row in rows("list_titles"):
        assert is_list_title(row.replace("*", "things"))
    assert not is_disambiguation_title("Disambiguation")
    assert not is_list_title("Franz Liszt")


def test_every_wiki_code_is_known() -> None:
    wikis = wiki_names._wikis()
    codes = wiki_names.language_codes()
    assert set(wikis["fallback"]) | set(wikis["fallback"].values()) <= codes
    assert set(wikis["same_wiki"].values()) <= codes
    for code in wiki_names.interlanguage_prefixes():
        text = wikitext_to_paragraphs(f"a [[{code}:x]] b", "T", Wiki("en" if code != "en" else "de"))
        assert text == ["a b"], code


@pytest.mark.parametrize(
    ("database", "language"),
    [
        ("enwiki", "en"), ("simplewiki", "simple"), ("nowiki", "no"), ("zh_yuewiki", "zh-yue"), ("frwikisource", "fr"),
        ("be_x_oldwiki", "be-tarask"), ("dewiktionary", "de"), ("commonswiki", ""), ("wikidatawiki", ""), ("", ""),
        ("zh_min_nanwiki", "zh-min-nan"), ("enwikivoyage", "en"), ("my_wiki", ""),
    ],
)  # fmt: skip
def test_language_by_database_name(database: str, language: str) -> None:
    assert wiki_names.code_of_database(database) == language


@pytest.mark.parametrize(
    "link",
    [
        "CSI: Miami", "Re:Zero", "It: Chapter Two", "Is: A Story", "No: 6", "Alien: Covenant", "2001: A Space Odyssey",
        "So:Fi", "NCIS: Los Angeles", "Ab: Urbe", "wikt:word", "Xy:z", "commons:Cats", "Wikipedia:About", "xx:Foo",
    ],
)  # fmt: skip
def test_titles_with_a_colon_stay(link: str) -> None:
    assert wikitext_to_paragraphs(f"He saw [[{link}]] there.", "T") == [f"He saw {link} there."]


@pytest.mark.parametrize(
    ("link", "language", "shown"),
    [
        ("fr:Paris", "en", ""), (":fr:Paris", "en", "fr:Paris"), ("simple:Paris", "en", ""), ("zh-yue:巴黎", "zh", ""),
        ("wikt:word|word", "en", "word"), (":en:Word|word", "de", "word"), ("roa-rup:Paris", "fr", ""),
        ("als:Paris", "de", ""), ("fr: Paris", "en", ""), ("fr:Paris|Paris", "en", ""),
        (":Re:Zero", "en", "Re:Zero"),
        ("nb:Paris", "en", ""), ("be-x-old:Paris", "en", ""), ("zh-min-nan:Paris", "en", ""),
    ],
)  # fmt: skip
def test_interlanguage_links(link: str, language: str, shown: str) -> None:
    text = " ".join(f"He saw [[{link}]] there.".replace(f"[[{link}]]", shown).split())
    assert wikitext_to_paragraphs(f"He saw [[{link}]] there.", "T", Wiki(language)) == [text]


def test_inline_tags_make_no_disambiguation() -> None:
    templates = DisambiguationTemplates("en")
    for name in ("Disambiguation needed", "dn", "disambiguation needed|date=May", "disambiguation inline", "about"):
        assert not templates.are_in(f"text {{{{{name}}}}} text"), name
    for name in (
        "Human name disambiguation", "School disambiguation", "hndis|name=A", "Template:Dab",
        "disambiguation|geo|surname",
        "Military_unit_disambiguation", "Disambiguation\n", "letter–Number Combination Disambiguation", "geodis",
        "Station disambiguation", "Chinese title disambiguation", "Number disambiguation", "disambiguation page",
    ):  # fmt: skip
        assert templates.are_in(f"text {{{{{name}}}}}"), name


def test_hatnotes_make_no_disambiguation() -> None:
    for language, name in (("pl", "DisambigR"), ("fr", "Homonymie à préciser"), ("de", "Begriffsklärungshinweis")):
        assert not DisambiguationTemplates(language).are_in(f"{{{{{name}|x}}}}"), name
    assert DisambiguationTemplates("fr").are_in("{{Homonymie de communes}}")
    assert DisambiguationTemplates("cs").are_in("{{Rozcestník - panovník}}")
    assert DisambiguationTemplates("tr").are_in("{{Yerleşim yerleri (anlam ayrımı)}}")


def test_hashes_that_do_not_redirect() -> None:
    for text in (
        "# one\n# two", "#", "# redirection of rivers\n", "Redirect [[x]]", "#weiterleitung [[x]]",
        "# Redirect means to lead away.", "#Redirect services are used by [[x]].",
    ):  # fmt: skip
        assert not is_redirect(text, "en"), text
