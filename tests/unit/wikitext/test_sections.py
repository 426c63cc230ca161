"""Whole sections: closing ones are judged by what they hold, unclosed templates cost no text behind them."""

from __future__ import annotations

import pytest

from megatron_pz.wikitext.extract import TextOptions, wikitext_to_paragraphs
from megatron_pz.wikitext.localization import Wiki


def text_of(wikitext: str, language: str = "en", keep: str = "") -> str:
    return "\n".join(wikitext_to_paragraphs(wikitext, "T", Wiki(language), TextOptions.keeping(keep)))


SINCE_A_YEAR = "The town draws its water from three sources, which lie north of it and have been used since 1900."
ON_A_DAY = "On March 5, 1990, the treaty (1957) became the only source of law in the whole of the country."
PROSE = "The richest sources of the vitamin are citrus fruits, peppers and a number of fresh vegetables."
WEISHENGSU = "维生素C广泛存在于新鲜蔬菜和水果之中，柑橘类水果含量最高。"
LITERATUR = "Die Literatur des Landes beginnt im 12. Jahrhundert mit einem Epos, das bis heute gelesen wird."


@pytest.mark.parametrize(
    ("section", "language", "kept"),
    [
        (f"== Sources ==\n{PROSE}<ref>x</ref>", "en", PROSE),
        (f"== Sources ==\n{SINCE_A_YEAR}", "en", SINCE_A_YEAR),
        (f"== Sources ==\n{ON_A_DAY}", "en", ON_A_DAY),
        ("== Quellen ==\nMüller, Anton: Eine Geschichte der Stadt und ihrer Bürger. Berlin 1990.", "de", ""),
        ("== 注腳 ==\n* 丙", "zh", ""),
        ("== Citations, notes & weblinks ==\n* A", "en", ""),
        ("== Belege und Weblinks ==\n* A", "de", ""),
        ("== Fuentes y enlaces ==\n* A", "es", ""),
        ("== 脚注と関連書籍 ==\n* 甲", "ja", ""),
        ("== 脚注和参考来源 ==\n* 甲", "zh", ""),
        ("== المراجع والملاحظات ==\n* أ", "ar", ""),
        ("== 각주와 외부 링크 ==\n* 갑", "ko", ""),
        ("== อ้างอิงและหมายเหตุ ==\n* ก", "th", ""),
        ("== Sources and works ==\n* A", "en", "- A"),
        (f"== Notes ==\n'''Notes''' {PROSE}\n{{{{reflist}}}}", "en", f"Notes {PROSE}"),
        (f"=== Literatur ===\n{LITERATUR}\n=== Weblinks ===\n* [http://x y]", "de", LITERATUR),
        (f"== 来源 ==\n{WEISHENGSU}", "zh", WEISHENGSU),
        (f"== References ==\n=== Cited ===\n* A book\n=== In literature ===\n{PROSE}", "en", f"- A book\n{PROSE}"),
        (f"== References ==\n* A\n== Next ==\n{PROSE}", "en", PROSE),
        ("== References ==\n{{refbegin}}\n* Smith, A. (1999). Foo.\n* {{cite book|x}}\n{{refend}}", "en", ""),
        ("== References ==\n{{cite book\n last = Smith\n first = A man with a very long name indeed\n}}", "en", ""),
        ("== Sources ==\nSmith, A. (1999). A history of the town and its people. Oxford.", "en", ""),
        ("== See also ==\n[[Something with a long title here]]\n[[Category:Things that are somewhere]]", "en", ""),
        ("== Bibliography ==\nThe list is incomplete.\n* Smith: A book of things.\n* Jones: Another book of things.",
         "en", ""),
        ("== Примечания и источники ==\n* Иванов И. И. История города.", "ru", ""),
        ("== Nachweise ==\n<references />\n* Müller: Buch", "de", ""),
        ("== روابط خارجية ==\n* [http://x y]", "ar", ""),
        ("== 參考書目 ==\n* 書", "zh", ""),
        ("== อ้างอิง ==\n* ก", "th", ""),
        ("== सन्दर्भ ==\n* क", "hi", ""),
        ("== 註 ==\n* 甲", "zh-yue", ""),
        ("== Other websites ==\n* [http://x y]", "simple", ""),
    ],
)  # fmt: skip
def test_closing_sections_go_for_what_they_hold(section: str, language: str, kept: str) -> None:
    assert text_of(f"Lead.\n{section}\n", language) == f"Lead.\n{kept}".rstrip()


@pytest.mark.parametrize(
    ("wikitext", "text"),
    [
        ("{{Infobox x\n| a = {{small|x\n| c = d\n}}\n\n'''Foo''' is a town.\n\nMore.\n== H ==\nText.",
         "Foo is a town.\nMore.\nText."),
        ("{{Infobox x\n| a = b\n'''Foo''' is a town.", "Foo is a town."),
        ("{{Infobox x | a = b\n| c = d\n\nText.\n== H ==\n{{nowrap|More}}.", "Text.\nMore."),
        ("Lead.\n\n{{unknown\n\nText {{nowrap|one}}.\n\nText two.", "Lead.\nText one.\nText two."),
        ("Good one. Bad {{convert|5|km long.\n\nText {{nowrap|ok}}.", "Good one.\nText ok."),
        ("One.\n\n{{a {{b {{c\n\nTwo.\n\n{{cn}} Three.", "One.\nTwo.\nThree."),
        ("A {{cn|b}} c}} d.\n\nE {{nowrap|f}}.", "A c d.\nE f."),
        ("Good one. Bad <ref>Smith, p. 5 and more. End.\n\nText.", "Good one.\nText."),
        ("Good one. <ref>Smith, p. 5\n\nText.\n* Item <ref>Smith\n* Two", "Good one.\nText.\n- Item\n- Two"),
    ],
)  # fmt: skip
def test_an_unclosed_template_costs_its_own_sentence(wikitext: str, text: str) -> None:
    assert text_of(wikitext) == text


@pytest.mark.parametrize(
    ("wikitext", "keep", "text"),
    [
        ("see {{nowrap|[[Alpha (town){{!}}Alpha]]}} there", "", "see Alpha there"),
        ("see [[Alpha (town){{!}}Alpha]]s, [[File:x.jpg{{!}}thumb{{!}}cap]] e", "", "see Alphas, e"),
        ("a {{nowrap|b {{!}} c}} d {{abbr|e{{!}}f|g}}", "", "a b | c d e|f"),
        ("a\n{{(!}} class=wikitable\n{{!-}}\n{{!}} b {{!!}} c\n{{!)}}\nd", "", "a\nd"),
        ("a\n{{(!}} class=wikitable\n{{!-}}\n{{!}} b {{!!}} c\n{{!-}}\n{{!}} s=x {{!}} e\n{{!)}}\nd",
         "tables", "a\nb | c\ne\nd"),
        ("a\n{| class=x\n{{!-}}\n{{!}} b\n{{!}}}\nd", "", "a\nd"),
        ("a\n{| class=x\n|-\n| b\n{{!)}}\nd", "tables", "a\nb\nd"),
        ("a\n{{(!}}\n{{!}}\n{{(!}}\n{{!}} b\n{{!)}}\n{{!)}}\nd", "", "a\nd"),
        ("{{quote|a\n{{(!}}\n{{!}} b\n{{!)}}\nd}}", "", "a\nd"),
        ("One. The sign {{(!}} is big. Two.\n\nThree. {{{!}} is a sign.\n\nFour.", "",
         "One. Two.\nThree. | is a sign.\nFour."),
    ],
)  # fmt: skip
def test_bars_that_templates_spell(wikitext: str, keep: str, text: str) -> None:
    assert text_of(wikitext, keep=keep) == text


@pytest.mark.parametrize("heading", ["== Leben <!-- a > b --> ==", "== <!-- a --> Leben == <!-- b -->"])
def test_a_comment_inside_a_heading_goes(heading: str) -> None:
    assert text_of(f"A.\n{heading}\nB.", keep="headings") == "A.\nLeben\nB."
