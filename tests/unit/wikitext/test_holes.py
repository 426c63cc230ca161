"""Text that is not markup stays; a sentence that lost a word is dropped and counted."""

from __future__ import annotations

import pytest

from megatron_pz.runtime.errors import BadInput
from megatron_pz.wikitext.extract import TextOptions, wikitext_to_paragraphs
from megatron_pz.wikitext.localization import Wiki


@pytest.mark.parametrize(
    ("wikitext", "text"),
    [
        ("Call main(), a[] and f( ) of __FILE__.", "Call main(), a[] and f( ) of __FILE__."),
        ("So :( and ( a ) or f( x ) and [ b ]（ c ）stay.", "So :( and ( a ) or f( x ) and [ b ]（ c ）stay."),
        ("A ({{efn|x}} b {{efn|y}}) or (<!-- x --> c) or (d - ) ends.", "A (b) or (c) or (d -) ends."),
        ("The tuple (a,) and the smiley (: are x[y[1]] or {a, {b}}.",
         "The tuple (a,) and the smiley (: are x[y[1]] or {a, {b}}."),
        ("Write <nowiki>[[x]] {{y}} ''z'' <ref></nowiki> or &#91;&#91;x&#93;&#93;.",
         "Write [[x]] {{y}} ''z'' <ref> or [[x]]."),
        ("The list [[1, 2], [3, 4]] and x[[[y], z]] of {{1}, {2}}.",
         "The list [[1, 2], [3, 4]] and x[[[y], z]] of {{1}, {2}}."),
        ("Write [<nowiki/>[x]] or &#123;{y}} or <nowiki>[</nowiki>[z]] or '<nowiki/>'a'<nowiki/>'.",
         "Write [[x]] or {{y}} or [[z]] or ''a''."),
        ("See a[b]] or [1]] or x[y[2]]] there.", "See a[b] or [1] or x[y[2]] there."),
        ("If a <3 then (;_;) and f( ).", "If a <3 then (;_;) and f( )."),
        ("A [[c|d]] and [[e [f]]] or [[[g]]]. {{nowrap|a} b}} c.", "A d and [[e [f]]] or [g]. a} b c."),
        ("A [[Foo (a)] b, [[c|d]].", "A Foo (a)] b, d."),
        ("A [[c [[[[d]]]] b.", "A c d b."),
        ("Prose.\n int x;\n int y;\nMore.", "Prose.\n\nint x;\nint y;\n\nMore."),
        ("Prose.\n f() {\n   g();\n }\nMore.", "Prose.\n\nf() {\ng();\n}\n\nMore."),
        ("{{term|Apple}}{{defn|A fruit.}}", "Apple\n\nA fruit."),
        ("{{plainlist|* a\n* b}}", "- a\n- b"),
        ("Its sides are {{hlist|\n* a\n* b\n}} and {{plainlist|\n* c\n* d\n}} and {{ubl|e|f}} here.",
         "Its sides are a, b and c, d and e, f here."),
        ("{{clear}}{{plainlist|\n* c\n* d\n}}", "- c\n- d"),
        ("Its sides:\n{{plainlist|\n* c\n* d\n}}\nMore.", "Its sides:\n\n- c\n- d\n\nMore."),
        ("A.\n{{hidden|Title|\n{|\n| b\n|}\n}}\nC.", "A.\n\nC."),
        ("A. {{ISBN|1}}. B", "A. B"),
        ("* Press, {{ISBN|1}}\n* end", "- Press\n- end"),
        ("{{As of|2017|alt=measured by 2017|post=),}} so.", "measured by 2017), so."),
        ("X ({{zh|labels=no|c=民航|p=Min}}) is.", "X (民航; Min) is."),
        ("Prose.\n<pre>\nint x;\n</pre>\nMore.", "Prose.\n\nMore."),
        ("Prose.<syntaxhighlight lang=c>\nint x;\n</syntaxhighlight>More.", "Prose.\n\nMore."),
        ("<poem>\nRoses\nViolets\n\nSugar\n</poem>After\nall.", "Roses\nViolets\n\nSugar\n\nAfter all."),
        ("{{poem|Roses\nViolets}}", "Roses\nViolets"),
        ("X (born 1950; {{IPA|x}}) is, y ({{sfn|A}}) is.", "X (born 1950) is, y is."),
        ("Venus (sign: [[File:Venus.svg|9px|♀]]) is. X = [[File:x.svg|♂]], so.", "Venus (sign: ♀) is. X = ♂, so."),
        ("Won by [[File:F.svg|20px]] France, [[File:S.svg]] Spain. [[File:x.jpg|thumb|X: [[File:y.svg|9px]].]]",
         "Won by France, Spain."),
        ("* Winner: [[File:Flag.svg|20px]] France", "- Winner: France"),
        ("The sites: [[Category:X]].", "The sites."),
    ],
)  # fmt: skip
def test_text_stays(wikitext: str, text: str) -> None:
    assert "\n\n".join(wikitext_to_paragraphs(wikitext)) == text


@pytest.mark.parametrize("text", ["我用 R-{0} 和乙。", "集合 A-{x, y} 丙。"])
def test_what_only_looks_like_a_variant_stays(text: str) -> None:
    assert wikitext_to_paragraphs(text, wiki=Wiki(language="zh")) == [text]


@pytest.mark.parametrize(
    ("hole", "reason"),
    [
        ("{{no such template|x}}", "unknown_template"),
        ("{{wikidata|property|P1082}}", "unknown_template"),
        ("{{current fiscal year}}", "unknown_template"),
        ("{{convert|5|no such unit}}", "unread_arguments"),
        ("<score>c d</score>", "unknown_element"),
        ("<hiero>A1</hiero>", "unknown_element"),
        ("{{respell|a|b}}", "pronunciation"),
        ("{{{1}}}", "unknown_template"),
        ("<math>x</math>", "dropped_formula"),
        ("<ce>H2O</ce>", "dropped_formula"),
    ],
)
@pytest.mark.parametrize(
    "sentence",
    [
        "The {} was big.", "{} was big.", "It was {}.", "In 5{} of it.", "It, {}, and so on.",
        "A (see {} there) is.", "A ''{}'' thing.", "It cost (${} today) then.",
        "It is now 3:{} there.",
    ],
)  # fmt: skip
def test_a_sentence_that_lost_a_word_goes(hole: str, reason: str, sentence: str) -> None:
    if reason == "pronunciation" and sentence.startswith("It, "):
        pytest.skip("a pronunciation between commas is an apposition that may go")
    source = f"First one. {sentence.format(hole)} Last one."
    dropped: dict[str, int] = {}
    assert wikitext_to_paragraphs(source, options=TextOptions(drop_formulas=True), dropped=dropped) == [
        "First one. Last one."
    ]
    assert dropped == {reason: 1}


@pytest.mark.parametrize(
    "wikitext",
    [
        "The end.{{no such template}} Next.",
        "The end{{no such template}}. Next.",
        "The end. {{no such template}}\n\nNext.",
        "{{No such box\n| a = b\n}}The end. Next.",
        "{{No such hatnote}}\nThe end. Next.",
        "{{a}} {{b|c}}\nThe end. Next.",
        "The end.{{sfn|A}} {{citation needed}} Next. [[File:a.jpg]]",
        "The end ({{no such template}}). Next.",
        "The {{anchor|x}}end. {{clarify|date=1}} Next.",
        "The {{no such note|{{cite web|title=x}}}} end. Next.",
        "{{{!}}\n{{!}}-\n{{!}} a {{!!}} b\n{{!}}}\nThe end. Next.",
    ],
)
def test_what_shows_no_word_costs_no_sentence(wikitext: str) -> None:
    dropped: dict[str, int] = {}
    assert " ".join(wikitext_to_paragraphs(wikitext, dropped=dropped)) == "The end. Next."
    assert dropped == {}


def test_arguments_that_are_not_understood_behind_a_word_are_no_note() -> None:
    assert wikitext_to_paragraphs("One. Let ''x''{{su|what}} be. Two.{{nowrap|}} Three.") == ["One. Two. Three."]


@pytest.mark.parametrize(
    ("language", "text"), [("ar", "ولد {} هنا و{{no such}} كذلك."), ("he", "הוא ו{{no such}} כאן.")]
)
def test_a_conjunction_that_is_written_with_the_lost_word_shows_the_hole(language: str, text: str) -> None:
    dropped: dict[str, int] = {}
    assert wikitext_to_paragraphs(text, wiki=Wiki(language=language), dropped=dropped) == []
    assert dropped == {"unknown_template": 1}


@pytest.mark.parametrize(
    "holder", ["{{{{frac|{}|2}}}}", "√{{{{sqrt|{}}}}}", "{{{{val|5|{}}}}}", "x<sub>{}</sub>", "2<sup>{}</sup>"]
)
def test_a_number_that_lost_a_part_is_a_hole(holder: str) -> None:
    dropped: dict[str, int] = {}
    source = f"One. It is {holder.format('{{no such}}')} there. Two."
    assert wikitext_to_paragraphs(source, dropped=dropped) == ["One. Two."]
    assert dropped == {"unread_arguments": 1}


def test_a_hole_in_front_of_a_number_is_not_in_it() -> None:
    assert wikitext_to_paragraphs("One {{no such}} is. It is {{val|5|e=3}} there.") == ["It is 5×10³ there."]


def test_a_line_that_looks_like_a_tables_row_is_a_hole_in_its_sentence() -> None:
    dropped: dict[str, int] = {}
    assert wikitext_to_paragraphs("One. See [[a\n|b]] there. Two.\n\nThree.", dropped=dropped) == ["One.", "Three."]
    assert dropped == {"unread_arguments": 1}


def test_a_hole_on_a_line_of_its_own_counts_where_the_sentence_goes_on() -> None:
    source = "The end. The list is\n{{no such}}\nof two. Next.\n{{no such}}\nLast."
    dropped: dict[str, int] = {}
    assert wikitext_to_paragraphs(source, dropped=dropped) == ["The end. Next.", "Last."]
    assert dropped == {"unknown_template": 1}


@pytest.mark.parametrize(
    "sentence",
    [
        "Mars (sign: [[File:Mars.svg|16px]]) is.",
        "The sign is “[[File:x.png|9px|old glyph]]”, so.",
        "X = [[File:x.svg]].",
    ],
)
def test_a_picture_in_place_of_a_word_is_a_hole(sentence: str) -> None:
    dropped: dict[str, int] = {}
    assert wikitext_to_paragraphs(f"First one. {sentence} Last one.", dropped=dropped) == ["First one. Last one."]
    assert dropped == {"unknown_element": 1}


@pytest.mark.parametrize(
    ("wikitext", "text"),
    [
        ("One. It is (in coll. With {{no such}} there) two. Three.", "One. Three."),
        ("One. It is (in coll. With {{no such}} there.", "One."),
        ("One (in coll. With A) two. See {{no such}} there. Three.", "One (in coll. With A) two. Three."),
        (
            f"One (two. {'Three is here. ' * 100}See {{{{no such}}}} there. Four.",
            f"One (two. {'Three is here. ' * 100}Four.",
        ),
    ],
)
def test_a_sentence_goes_on_behind_a_full_stop_in_a_parenthesis(wikitext: str, text: str) -> None:
    assert " ".join(wikitext_to_paragraphs(wikitext)) == text


def test_bold_text_behind_a_box_is_the_articles_first_sentence() -> None:
    assert wikitext_to_paragraphs("{{no such box|a=b}}'''A''' is b.") == ["A is b."]


def test_incomplete_sentences_are_kept_on_request() -> None:
    options = TextOptions(keep_incomplete_sentences=True)
    dropped: dict[str, int] = {}
    assert wikitext_to_paragraphs("The {{no such template}} was.", options=options, dropped=dropped) == ["The was."]
    assert dropped == {}


def test_items_and_rows_lose_what_is_incomplete() -> None:
    source = "* first {{no such template}} item\n* second\n{|\n| a {{no such template}} b || c\n|-\n| d || e\n|}"
    assert wikitext_to_paragraphs(source, options=TextOptions.keeping("tables")) == ["- second", "d | e"]


def test_dropped_and_kept_formulas_contradict() -> None:
    with pytest.raises(BadInput, match="--drop-formulas contradicts --keep math"):
        TextOptions.keeping("math", drop_formulas=True)
