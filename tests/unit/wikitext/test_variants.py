"""``-{…}-`` on wikis with language variants, by hand-worked examples; elsewhere it is ordinary text."""

from __future__ import annotations

import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from megatron_pz.wikitext import scanner_form, variants
from megatron_pz.wikitext.extract import wikitext_to_paragraphs
from megatron_pz.wikitext.localization import Wiki, trailing_sections
from megatron_pz.wikitext.marks import DROPPED

CHINESE = Wiki("zh", trailing_sections=trailing_sections("zh"))


def text_of(wikitext: str, wiki: Wiki = CHINESE) -> str:
    return "\n\n".join(wikitext_to_paragraphs(wikitext, "Title", wiki))


@pytest.mark.parametrize(
    ("wikitext", "text"),
    [
        # One of several texts
        ("一台-{zh-hans:计算机;zh-hant:電腦}-。", "一台计算机。"),
        ("-{zh-tw:電腦; zh-hk:電子計算機 ;zh-cn: 计算机; }-很快", "计算机很快"),
        ("-{zh-tw:公車;zh-hk:巴士}-站", "公車站"),
        ("-{zh:甲;zh-hant:乙}-", "甲"),
        ("-{\nzh-hans:甲;\nzh-hant:乙;\n}-", "甲"),
        ("a-{zh-hans:;zh-hant:x}-b", "ab"),
        # Semicolons and colons of the text
        ("-{zh-cn:甲; 乙: 丙;zh-tw:丁}-", "甲; 乙: 丙"),
        ("-{zh-cn:a&nbsp;b;zh-tw:c}-", "a b"),
        ("见-{cd:rom; x}-和-{http://x.org}-", "见cd:rom; x和http://x.org"),
        # One text that must not be converted, or that stands alone
        ("-{干}-部，天-{}-后，-{R|乾隆}-，-{zh;zh-hans|后}-", "干部，天后，乾隆，后"),
        # Rules, with and without something to see
        ("-{A|zh-cn:博客;zh-tw:部落格}-好", "博客好"),
        ("-{H|zh-cn:博客;zh-tw:部落格}-好", "好"),
        ("-{H|巨集=>zh-cn:宏;}-好-{巨集=>zh-cn:宏;}-", "好宏"),
        ("-{T|zh-cn:标题;zh-tw:標題}-甲-{-|zh-cn:乙}--{D|zh-cn:丙}--{N|zh-cn}-", "甲"),
        ("甲（-{H|zh-cn:乙;zh-tw:丙}-），丁", "甲，丁"),
        # Among other markup
        ("[[-{zh-hans:网;zh-hant:網}-|-{zh-hans:互联网;zh-hant:網際網路}-]]", "互联网"),
        ("-{zh-hans:[[甲|乙]]{{lang|en|x; y}};zh-hant:[[丙]]}-", "乙x; y"),
        ("{{lang|zh|-{zh-hans:甲;zh-hant:乙}-}}丁", "甲丁"),
        ("{{sfn|-{zh-hans:甲;zh-hant:乙}-}}丁[[File:a.jpg|thumb|-{甲}-]]", "丁"),
        ("'''-{zh-hans:'甲';zh-hant:乙}-'''<ref>-{x}-</ref>", "'甲'"),
        ("-{zh-hans:甲-{乙}-丙;zh-hant:丁}-戊", "甲乙丙戊"),
        ("-{{{lang|en|word}}}-好", "word好"),
        ("a-{{lang|en|word}}-b", "a-word-b"),
        ("* -{zh-hans:甲;zh-hant:乙}-\n* 丙", "- 甲\n- 丙"),
        ("甲\n\n== -{zh-hans:外部链接;zh-hant:外部連結}- ==\n乙", "甲"),
        # Broken
        ("甲-{zh-hans:乙\n\n== 丙 ==\n丁", "甲-{zh-hans:乙\n\n丁"),
        ("甲}-乙-{丙", "甲}-乙-{丙"),
        ("{{lang|en|-{x}}丁", "-{x丁"),
    ],
)  # fmt: skip
def test_chinese(wikitext: str, text: str) -> None:
    assert text_of(wikitext) == text


@pytest.mark.parametrize(
    ("language", "wikitext", "text"),
    [
        ("sr", "-{sr-el:Beograd; sr-ec:Београд}- и -{Windows}-", "Београд и Windows"),
        ("kk", "-{kk-arab:x;kk-cyrl:қазақ}-", "қазақ"),
        ("iu", "-{ike-latn:inuktitut;ike-cans:ᐃᓄᒃᑎᑐᑦ}-", "ᐃᓄᒃᑎᑐᑦ"),
        ("gan", "-{gan-hant:乙;gan-hans:甲}-", "甲"),
        ("uz", "-{uz-cyrl:сўз;uz-latn:so‘z}-", "so‘z"),
    ],
)
def test_other_languages(language: str, wikitext: str, text: str) -> None:
    assert text_of(wikitext, Wiki(language)) == text


@pytest.mark.parametrize("language", ["en", "de", "ja", "ko"])
def test_wikis_without_variants_show_it_as_it_is(language: str) -> None:
    wikitext = "the set -{1, 2}- and -{a|b}-, f-{zh-cn:x}-"
    assert text_of(wikitext, Wiki(language)) == wikitext


PIECES = "-{ }- -{{{ }}}- -{H| -{A| zh-hans: zh-hant: zh-cn: => ; : | {{nowrap| }} [[ ]] [[File:x| {| |} 甲 a - { }"
MARKUP = st.lists(st.sampled_from([*PIECES.split(" "), "\n", "\n\n"]), max_size=40).map("".join)


@settings(max_examples=200, deadline=None)
@given(MARKUP)
@example("-{" * 50 + "x" + "}-" * 50)
@example("{{a|-{}}}-")
def test_both_forms_give_the_same(wikitext: str) -> None:
    interpreted = scanner_form.load_interpreted()
    assert wikitext_to_paragraphs(wikitext, "T", CHINESE) == interpreted(wikitext, "T", CHINESE, frozenset())


@pytest.mark.parametrize(
    "piece", ["-{", "}-", "-{a}-", "-{zh-cn:", "-{H|", "-{;", "-{{{", "-{a=>", "-{zh-cn:a;zh-tw:b}-"]
)
def test_time_is_linear(piece: str) -> None:
    def seconds(repetitions: int) -> float:
        source = piece * repetitions
        start = time.process_time()
        text_of(source)
        return time.process_time() - start

    size = 1000 if scanner_form.FORM == "compiled" else 100
    short = max(min(seconds(size) for _ in range(3)), 2e-4)
    assert min(seconds(16 * size) for _ in range(2)) < 80 * short


@pytest.mark.parametrize("piece", [";", " ", "; ", ";zh-", "zh-cn:", "=>", ";a=", "; zh-cn", "-a", ";zh-cn:a"])
def test_rules_are_read_in_linear_time(piece: str) -> None:
    def seconds(repetitions: int) -> float:
        start = time.process_time()
        variants.shown("zh-cn:a" + piece * repetitions, "zh")
        return time.process_time() - start

    short = max(min(seconds(500) for _ in range(3)), 1e-4)
    assert min(seconds(8000) for _ in range(2)) < 80 * short


def test_what_shows_nothing_leaves_a_mark() -> None:
    assert variants.shown("H|zh-cn:a", "zh") == DROPPED
    assert variants.shown("", "zh") == ""
