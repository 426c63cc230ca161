"""What is not understood never vanishes uncounted: it costs its sentence, or it is counted by place and reason."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_pz.wikitext import scanner_form, templates
from megatron_pz.wikitext.extract import TextOptions, wikitext_to_paragraphs
from megatron_pz.wikitext.localization import Wiki
from megatron_pz.wikitext.templates.from_dump import DumpTemplates, summary

UNKNOWN = [
    ("{{no such|x}}", "unknown_template"),
    ("{{#no such:x|y}}", "unknown_template"),
    ("{{{1}}}", "unknown_template"),
    ("{{convert|5|no such unit}}", "unread_arguments"),
    ("<hiero>A1</hiero>", "unknown_element"),
    ("[[File:x.svg|20px]]", "unknown_element"),
]
FORMS = [scanner_form.load_interpreted()] + ([scanner_form.scan_page] if scanner_form.compiled else [])


@pytest.mark.parametrize("scan_page", FORMS, ids=["interpreted", "compiled"][: len(FORMS)])
@pytest.mark.parametrize(("unknown", "reason"), UNKNOWN)
@pytest.mark.parametrize(
    ("wikitext", "text"),
    [
        ("Alpha ({}; born 1950) is a town.", "Alpha (born 1950) is a town."),
        ("Alpha (born 1950, {}) is a town.", "Alpha (born 1950) is a town."),
        ("Alpha (born 1950; {}, a man) is a town.", "Alpha (born 1950, a man) is a town."),
        ("Alpha ({}) is a town.", "Alpha is a town."),
        ("甲（{}、1950年）是城市。", "甲（1950年）是城市。"),
        ("甲（1950年；{}）是城市。", "甲（1950年）是城市。"),
        ("甲［{}］是城市。", "甲是城市。"),
        ("甲【{}・1950年】是城市。", "甲【1950年】是城市。"),
        ("甲〔{}，1950年〕是城市。", "甲〔1950年〕是城市。"),
        ("القاهرة ({}، 1950) مدينة.", "القاهرة (1950) مدينة."),
    ],
)
def test_a_part_of_a_parenthesis_is_counted(
    scan_page: scanner_form.ScanPage, unknown: str, reason: str, wikitext: str, text: str
) -> None:
    dropped: dict[str, int] = {}
    lost: dict[str, int] = {}
    assert scan_page(wikitext.format(unknown), "T", Wiki(), frozenset(), dropped, lost) == [text]
    assert dropped == {}
    assert lost == {f"in_parentheses_{reason}": 1}


@pytest.mark.parametrize(
    ("wikitext", "text", "place"),
    [
        ("The end{{no such}}. Next.", "The end. Next.", "behind_words"),
        ("The end.{{no such}} Next.", "The end. Next.", "behind_words"),
        ("The end. Next. {{no such}}", "The end. Next.", "behind_words"),
        ("The [{{no such}}] end.", "The end.", "in_parentheses"),
        ("* The end.\n* {{no such}}\n* Next.", "- The end.\n\n- Next.", "as_list_items"),
        ("The end.\n: {{no such}}\n", "The end.", "as_list_items"),
        ("<gallery>\nFile:a.jpg|{{no such}}\nFile:b.jpg|The end.\n</gallery>", "- The end.", "as_list_items"),
        ("{{no such}}\nThe end.", "The end.", "on_lines_of_their_own"),
        ("The end.\n({{no such}})\nNext.", "The end.\n\nNext.", "on_lines_of_their_own"),
        ("Alpha ({{IPA|x}} {{no such}}; b) is.", "Alpha (b) is.", "in_parentheses"),
    ],
)
def test_what_stands_apart_is_counted_by_its_place(wikitext: str, text: str, place: str) -> None:
    dropped: dict[str, int] = {}
    lost: dict[str, int] = {}
    options = TextOptions.keeping("galleries")
    assert "\n\n".join(wikitext_to_paragraphs(wikitext, options=options, dropped=dropped, lost=lost)) == text
    assert dropped == {}
    assert lost == {f"{place}_unknown_template": 1}


@pytest.mark.parametrize(
    "wikitext",
    [
        "Alpha ({{IPA|x}}; born 1950) is.",
        "Alpha (born 1950, [[File:Alpha.ogg|listen]]) is.",
        "Alpha<ref>a</ref> ({{clarify|date=1}} born 1950).{{sfn|A}}\n* {{anchor|x}}",
        "[[File:a.jpg|thumb|A caption ({{no such}}) of it.]]Alpha is.\n[[Category:A]]",
        "{{No such box\n| a = {{no such}}\n}}\n'''Alpha''' is.",
        "Alpha is.{{no such note|{{cite web|title=x}}}}",
    ],
)
def test_what_is_known_to_show_no_word_is_not_counted(wikitext: str) -> None:
    lost: dict[str, int] = {}
    assert wikitext_to_paragraphs(wikitext, lost=lost)
    assert lost == {}


def test_a_picture_of_a_sign_in_a_parenthesis_is_its_sign() -> None:
    lost: dict[str, int] = {}
    assert wikitext_to_paragraphs("Venus ([[File:Venus.svg|9px|♀]], a planet) is.", lost=lost) == [
        "Venus (♀, a planet) is."
    ]
    assert lost == {}


@pytest.mark.parametrize(
    ("wikitext", "text", "reason"),
    [
        ("First.\nThe list is\n{{no such\n|a}}\nof two. Next.", "First. Next.", "unknown_template"),
        ("Alpha ({{IPA|x}} {{no such}} b) is. Next.", "Next.", "unknown_template"),
        ("First. Alpha [[File:a.jpg|20px is a town.\n\nNext.", "First.\n\nNext.", "unknown_element"),
        (f"First. A {'{{nowrap|' * 45}b{'}}' * 45} is. Next.", "First. Next.", "unknown_element"),
        ("== A {{no such}} b ==\nNext.", "Next.", "unknown_template"),
    ],
)
def test_no_sentence_loses_a_word_unnoticed(wikitext: str, text: str, reason: str) -> None:
    dropped: dict[str, int] = {}
    options = TextOptions.keeping("headings")
    assert "\n\n".join(wikitext_to_paragraphs(wikitext, options=options, dropped=dropped)) == text
    assert dropped == {reason: 1}


def test_a_heading_that_is_not_kept_is_not_counted() -> None:
    dropped: dict[str, int] = {}
    lost: dict[str, int] = {}
    assert wikitext_to_paragraphs("== A {{no such}} b ==\nNext.", dropped=dropped, lost=lost) == ["Next."]
    assert dropped == lost == {}


def test_a_template_of_the_dump_that_stands_alone_inside_a_sentence_costs_it() -> None:
    body = summary("<b>{{{1}}}</b>", None)
    assert body is not None
    wiki = Wiki(templates=DumpTemplates({templates.template_name("Strong wrap"): body}, "en"))
    dropped: dict[str, int] = {}
    source = "First.\nThe list is\n{{strong wrap|a}}\nof two. Next."
    assert wikitext_to_paragraphs(source, wiki=wiki, dropped=dropped) == ["First. Next."]
    assert dropped == {"unknown_template": 1}


def test_kept_incomplete_sentences_are_counted() -> None:
    source = "The {{no such}} was (a; {{no such}}). It was pronounced {{respell|a|b}}."
    dropped: dict[str, int] = {}
    lost: dict[str, int] = {}
    options = TextOptions(keep_incomplete_sentences=True)
    assert wikitext_to_paragraphs(source, options=options, dropped=dropped, lost=lost) == ["The was (a). It was."]
    assert dropped == {}
    assert lost == {
        "between_words_unknown_template": 1,
        "in_parentheses_unknown_template": 1,
        "between_words_pronunciation": 1,
    }


LOSING = [source for source, _ in UNKNOWN[:-1]] + [
    *("''{{no such}}''", "<small>{{no such}}</small>", "<sup>{{no such}}</sup>", "[[A|{{no such}}]]"),
    *("{{nowrap|{{no such}}}}", "{{lang|fr|{{no such}}}}", "{{ubl|{{no such}}}}", "{{no<!-- --> such|a=b}}"),
]
PIECES = [
    *LOSING,
    *("word", "1950", "( ", ")", "[", "]", "; ", ", ", ". ", ": ", "“", "”", "（", "）", "、", "「", "」", "。"),
    *(" ", "\n", "\n\n", "\n* ", "\n: ", "{{IPA|x}}", "<ref>a</ref>"),
]


@settings(max_examples=500, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=12))
def test_everything_unknown_is_counted(pieces: list[str]) -> None:
    source = "".join(pieces)
    unknown = sum(piece in LOSING for piece in pieces)
    for keeps in (False, True):
        dropped: dict[str, int] = {}
        lost: dict[str, int] = {}
        options = TextOptions(keep_incomplete_sentences=keeps)
        wikitext_to_paragraphs(source, options=options, dropped=dropped, lost=lost)
        counted = sum(number for name, number in lost.items() if not name.endswith("_pronunciation"))
        if dropped:
            assert not keeps
            assert counted <= unknown
        else:
            assert counted == unknown


@pytest.mark.parametrize("scan_page", FORMS, ids=["interpreted", "compiled"][: len(FORMS)])
@pytest.mark.parametrize(
    ("wikitext", "text", "counted"),
    [
        ("The city<ref>Smith grew. It fell.\n\nNext one.", "Next one.", {"unknown_element": 1}),
        ("The city grew.<ref>Smith fell.\n\nNext one.", "The city grew.\n\nNext one.",
         {"behind_words_unknown_element": 1}),
        ("* Alpha <ref>Smith\n* Beta<ref>Jones\n* Gamma", "- Alpha\n- Beta\n- Gamma",
         {"behind_words_unknown_element": 2}),
        ("The {{nowrap|b <ref>Smith\n\nNext}} one.", "Next one.", {"unknown_element": 1}),
    ],
)  # fmt: skip
def test_a_note_without_an_end_is_counted(
    scan_page: scanner_form.ScanPage, wikitext: str, text: str, counted: dict[str, int]
) -> None:
    found: dict[str, int] = {}
    assert "\n\n".join(scan_page(wikitext, "T", Wiki(), frozenset(), found, found)) == text
    assert found == counted


@pytest.mark.parametrize("scan_page", FORMS, ids=["interpreted", "compiled"][: len(FORMS)])
def test_an_amount_given_once_more_is_counted(scan_page: scanner_form.ScanPage) -> None:
    found: dict[str, int] = {}
    source = (
        "It paid $5 million (equivalent to ${{Inflation|US|5|1990}} million in {{Inflation/year|US}}) in cash. "
        "It fell by 5 (about {{no such}}) then. It paid (equivalent to {{no such}})5 then. It was a ({{no such}} b) c."
    )
    assert scan_page(source, "T", Wiki(), frozenset(), found, found) == [
        "It paid $5 million in cash. It fell by 5 then."
    ]
    assert found == {"in_parentheses_unknown_template": 3, "unknown_template": 2}


@pytest.mark.parametrize(
    ("language", "wikitext", "text"),
    [
        ("de", "Er kostete 5 Mark (entspricht {{Inflation|DE|5|1950}} Euro) damals.", "Er kostete 5 Mark damals."),
        ("fr", "Il vaut 5 francs (soit {{Inconnu|5}} euros), ici.", "Il vaut 5 francs, ici."),
        ("en", "It paid £5 (≈{{Inflation|UK|5|1950}}).", "It paid £5."),
    ],
)
def test_an_amount_given_once_more_goes_alone(language: str, wikitext: str, text: str) -> None:
    assert wikitext_to_paragraphs(wikitext, "T", Wiki(language)) == [text]
