"""Templates understood from the dump's own pages: redirects, wrappers, link helpers, boxes, disambiguations."""

from __future__ import annotations

import pytest

from megatron_pz.wikitext import templates
from megatron_pz.wikitext.extract import wikitext_to_paragraphs
from megatron_pz.wikitext.localization import Wiki
from megatron_pz.wikitext.templates.from_dump import DumpTemplates, by_name, summary

PAGES = {
    "Strong wrap": "<noinclude>{{doc}}</noinclude><span class=\"x\">'''{{{1|}}}'''</span><!-- x -->",
    "Helper": "[[{{{1}}}|{{{2|{{{1}}}}}}]]<sup>[[:{{{lang|en}}}:{{{3|{{{1}}}}}}|({{{lang|en}}})]]</sup>",
    "If": "{{#if:{{{2|}}}|{{{1}}} ({{{2}}})|{{{1}}}}}",
    "Unit": "{{convert|{{{1}}}|km|mi}}",
    "Switch": "{{#switch:{{{1}}}|a|b=first|c=second|#default=other}}",
    "Equal": "{{#ifeq: {{{1}}} | yes | Yes! | No! }}",
    "Nested": "{{Strong wrap|{{{1|{{{text|}}}}}}}}",
    "Only": "Docs {{{1}}} <onlyinclude>{{{1}}}!</onlyinclude> more",
    "Land": "[[File:Flag.svg|20px]] [[Land]]",
    "Box": '<div class="navbox">long {{{1}}}</div>',
    "Notice": "{{ambox|text=This is {{{1}}}}}",
    "Tag": '<sup class="noprint">[<i>by whom?</i>]</sup>',
    "Doubt": "<sup>&#91;''[[WP:Doubt|who says?]]''&#93;</sup>",
    "Pair": "{{{1}}} ({{{2}}})",
    "Triple": "{{{1}}}, {{{2}}} and {{{3}}}",
    "Given": "{{#if:{{{1}}}|given|nothing}}",
    "Module": "{{#invoke:Foo|bar|{{{1}}}}}",
    "Loop": "{{Loop|{{{1}}}}}",
    "Broken": "{{#if:{{{1}}}|a",
    "Kinds": "{{Dmbox}}__DISAMBIG__[[Category:Kinds]]",
    "Village kinds": "{{School disambiguation}}<includeonly>[[Category:Kinds]]</includeonly>",
    "River kinds": "{{Arts|river}}{{#if:{{{1|}}}|x}}",
    "Ref": "<ref>{{{1}}}</ref>",
    "Printed": '[[{{{1}}}]]<span class="noprint">&nbsp;([[:en:{{{1}}}|en]])</span>',
    "Doubted span": "{{Fix-span|content={{{1|}}}|text=doubtful}}",
    "Saved": "{{{{{|safesubst:}}}#if:{{{1|}}}|{{SafeSubst:nowrap|{{{1}}}!}}|x}}",
    "Older": "{{#expr: {{{2}}} - {{{1}}}}}{{#ifexpr: {{{2}}} - {{{1}}} > 50|!}}",
    "Language": "{{#switch: {{lc:{{{1|}}}}} | de = German | fr | fra = French | {{{1}}} }}",
    "Place": "{{#ifeq:{{NAMESPACE}}|{{ns:0}}|{{{1}}}|no article}}",
    "Wrapped": "{{#ifeq:{{strong wrap|{{{1}}}}}|a|first|other}}",
    "Edited": '{{{1}}}<span class="plainlinks noprint"> [edit]</span>',
    "Exists": "{{#ifexist:{{{1}}}|[[{{{1}}}|{{{3|{{{1}}}}}}]]|{{{3|{{{1}}}}}} (none)}}",
    "Doubtful claim": '<span class="x">{{{1|}}}</span>{{Fix|text=doubtful|date={{{date|}}}}}',
    "Fixed": "{{fix|text={{{1|}}}}}{{#if:{{{1|}}}|[[Category:Doubts]]}}",
    "Shown link": (
        "<span class='a'>[[:{{{1}}}|{{{d|{{{1}}}}}}]]<span class='noprint b'>(<span>[[:en:{{{2}}}|en]]</span>)</span>"
        "</span>"
    ),
    "Tagged": "{{<includeonly>safesubst:</includeonly>#if:{{{1|}}}|{{{1}}}|x}}",
    "Number": "{{#ifeq:{{{1}}}|1|one|{{#switch:{{{1}}}|2=two|many}}}}",
    "Shown": "{{{name}}}, {{{1}}} {{PAGENAME}}",
}
REDIRECTS = {
    "Cv": "Template:Convert",
    "Sw": "Template:Strong wrap",
    "Sw2": "Sw",
    "Arts": "Template:Kinds",
    "Fact2": "Vorlage:Cn",
}


def dump_templates(language: str = "en") -> DumpTemplates:
    pages = {templates.template_name(name): summary(text, None) for name, text in PAGES.items()}
    pages |= {templates.template_name(name): summary("", target) for name, target in REDIRECTS.items()}
    return DumpTemplates({name: text for name, text in pages.items() if text is not None}, language)


@pytest.mark.parametrize(
    ("wikitext", "text"),
    [
        ("A {{strong wrap|b}} c.", "A b c."),
        ("A {{language|DE}}, {{language|fr}}, {{language|It}} b.", "A German, French, It b."),
        ("A {{place|b}} {{edited|c}} d.", "A b c d."),
        ("A {{wrapped|a}} b.", ""),
        ("A {{exists|Alpha}} and {{exists|Alpha|b|beta}} c.", "A Alpha and beta c."),
        ("A {{tagged|b}} {{tagged}} {{number|01}} {{number|2.0}} {{number|3}} c.", "A b x one two many c."),
        ("A {{doubtful claim|b|date=1}} c{{fixed|d}} e.", "A b c e."),
        ("A {{shown link|Alpha|B}} and {{shown link|Alpha|B|d=beta}} c.", "A Alpha and beta c."),
        ("A {{Sw|b}} and {{sw2|c}} d.", "A b and c d."),
        ("It is {{cv|5|km}} long.", "It is 5 kilometres long."),
        ("He met {{helper|Alpha}} and {{helper|Beta|the beta|Gamma|lang=fr}} there.",
         "He met Alpha and the beta there."),
        ("A {{if|b}} and {{if|c|d}} e.", "A b and c (d) e."),
        ("A {{unit|5}} road.", "A 5 kilometres road."),
        ("A {{switch|a}} {{switch|b}} {{switch|c}} {{switch|z}} e.", "A first first second other e."),
        ("A {{equal|yes}} {{equal|no}} e.", "A Yes! No! e."),
        ("A {{nested|b [[c|d]] {{nowrap|e}}}} f.", "A b d e f."),
        ("A {{nested|text=b}} f.", "A b f."),
        ("A {{printed|Alpha}} {{doubted span|b}} {{saved|c}} d.", "A Alpha b c! d."),
        ("A {{only|b}} f.", "A b! f."),
        ("A{{doubt}} {{pair|b|c}} {{given|}} {{given}} d.", "A b (c) nothing given d."),
        ("Good. A {{triple|b|c}} cat. Good too.", "Good. Good too."),
        ("From {{land}} he came.", "From Land he came."),
        ("A {{box|b}}, c{{notice|d}} e{{tag}} f{{fact2}} g{{ref|h}}.", "A, c e f g."),
        ("Good. A {{module|b}} cat. Good too.", "Good. Good too."),
        ("Good. A {{loop|b}} cat. Good too.", "Good. Good too."),
        ("Good. A {{broken|b}} cat. Good too.", "Good. Good too."),
        ("He was {{older|1900|1950}} and {{older|1900|1960}}.", "He was 50 and 60!."),
        ("Good. A {{older|1900|b}} cat. Good too.", "Good. Good too."),
        ("A {{shown|x=1|b|name=c''d'' {{nowrap|e|f}}}} g.", "A cd e, b T g."),
        ("{{strong wrap|A line of its own}}\nText here.", "Text here."),
        ("A {{strong wrap|[[x|y]] | z}} c.", "A y c."),
        ("A {{strong wrap|1=<b>p</b> {{!}} q}} c.", "A p | q c."),
    ],
)  # fmt: skip
def test_the_dump_explains_a_template(wikitext: str, text: str) -> None:
    assert " ".join(wikitext_to_paragraphs(wikitext, "T", Wiki(templates=dump_templates()))) == text


def test_tables_win_over_the_dump() -> None:
    own = DumpTemplates({"convert": summary("{{{1}}} furlongs", None) or ""}, "en")
    assert wikitext_to_paragraphs("It is {{convert|5|km}}.", "T", Wiki(templates=own)) == ["It is 5 kilometres."]


def test_disambiguations_and_their_redirects() -> None:
    assert dump_templates().disambiguations == {"kinds", "arts", "village kinds", "river kinds"}


def test_deep_templates_cost_little() -> None:
    pages = {f"t{n}": summary(f"{{{{t{n + 1}|{{{{{{1}}}}}}}}}}" * 20, None) or "" for n in range(20)}
    wiki = Wiki(templates=DumpTemplates(pages, "en"))
    assert wikitext_to_paragraphs("Good. A {{t0|b}} cat. Good too.", "T", wiki) == ["Good. Good too."]


@pytest.mark.parametrize("body", ["{{#if:x|" * 20_000 + "a" + "}}" * 20_000, "{{#if:x|" * 390 + "a" + "}}" * 390])
def test_a_long_or_deep_page_costs_little(body: str) -> None:
    summary(f"{{{{fix|a}}}}{{{{{{1}}}}}}{body}", None)
    summary(body, None)


def test_titles_that_differ_in_capitals_are_different_templates() -> None:
    pages = {
        "INX": summary("INX ''{{{1}}}''", None),
        "Inx": summary("<ins>{{{1}}}</ins>", None),
        "INx": summary("", "Template:Inx"),
        "RS": summary("{{{1}}} rupees", None),
        "Rs": summary("{{#invoke:Foo|bar}}", None),
        "Wide": summary("{{{1}}}!", None),
        "WIDE": summary("", "Template:Wide"),
        "Rx": summary("", "Template:RS"),
    }
    wiki = Wiki(templates=DumpTemplates(by_name({title: found or "" for title, found in pages.items()}), "en"))
    source = "The {{INX|Vik}} was {{inx|added}} and {{INx|put}} for {{RS|5}} or {{rx|6}}. A {{wide|b}} {{WIDE|c}} dog."
    assert wikitext_to_paragraphs(f"{source} It is {{{{rs|7}}}} there.", "T", wiki) == [
        "The INX Vik was added and put for 5 rupees or 6 rupees. A b! c! dog."
    ]
