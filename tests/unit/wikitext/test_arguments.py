"""Arguments that change what a template shows, on several wikis; those not understood drop the sentence."""

from __future__ import annotations

import pytest

from megatron_pz.wikitext.extract import wikitext_to_paragraphs
from megatron_pz.wikitext.localization import Wiki


@pytest.mark.parametrize(
    ("language", "wikitext", "text"),
    [
        ("en", "He gave [[Media:Speech.ogg|a long speech]] there.", "He gave a long speech there."),
        ("en", "The claim {{clarify|text=is odd|date=May 2010}} here{{clarify|reason=x}}.", "The claim is odd here."),
        ("en", "It is {{font color|green|yellow|warm}} and {{font color|blue|cold}}.", "It is warm and cold."),
        ("es", "Es {{color|rojo|cálido}}.", "Es cálido."),
        ("nl", "Hij ({{lang-en|bus}}) kwam.", "Hij (Engels: bus) kwam."),
        ("sv", "Han ({{lang-en|buss}}) kom.", "Han (engelska: buss) kom."),
        ("hu", "Róma ({{lang-la|Roma}}, {{lang-it|Roma}}) város.", "Róma (latinul: Roma, olaszul: Roma) város."),
        ("ro", "Roma (în {{lang-it|Roma}}) este.", "Roma (în italiană Roma) este."),
        ("no", "Roma ({{lang-grc|Ῥώμη}}) er.", "Roma (gammelgresk: Ῥώμη) er."),
        ("vi", "Ông ({{lang-fr|bus}}) đến.", "Ông (tiếng Pháp: bus) đến."),
        ("vi", "Tên {{âm thanh|a.ogg|Hà Nội}}, {{âm thanh|b.ogg|nghe}} đến.", "Tên Hà Nội, đến."),
        ("ja", "甲は{{傍点|文章=乙丙}}だ{{独自研究?|date=2020年}}。", "甲は乙丙だ。"),
        ("fr", "Elle vit {{quand ?}} ici, {{qui ?|dit-on}}.", "Elle vit ici, dit-on."),
        ("id", "Dia ({{lang-nl|bus}}) datang.", "Dia (bahasa Belanda: bus) datang."),
        ("tr", "O ({{lang-en|bus}}) geldi.", "O (İngilizce: bus) geldi."),
        ("pl", "On ({{lang-ru|автобус}}) jest.", "On (ros. автобус) jest."),
        ("cs", "On ({{vjazyce2|en|bus}}) a {{cizojazyčně|de|Bus}} přišel.", "On (anglicky bus) a Bus přišel."),
        ("he", "הוא ({{אנג|bus}}) בא.", "הוא (באנגלית: bus) בא."),
        ("pt", "A {{quem?}} moça veio.", "A moça veio."),
        (
            "fr",
            "Du {{sp|IX|e|au|XI|e|siècle}} aux {{sp-|XII|e|et|XIII|e|s}}.",
            "Du IXe au XIe siècle aux XIIe et XIIIe siècles.",
        ),
        ("fr", "Une aire de 5 km{{2}} et 3 m{{3}}.", "Une aire de 5 km² et 3 m³."),
        (
            "ja",
            "{{読み仮名|藤井 聡太|ふじい そうた|2002年 - }}は棋士。",
            "藤井 聡太（ふじい そうた、2002年 -）は棋士。",
        ),
        ("fr", "La {{3e|division}} et le 2{{e|régiment}} arrivent.", "La 3e division et le 2e régiment arrivent."),
    ],
)
def test_shown(language: str, wikitext: str, text: str) -> None:
    assert wikitext_to_paragraphs(wikitext, wiki=Wiki(language=language)) == [text]


@pytest.mark.parametrize(
    ("language", "wikitext"),
    [
        ("fr", "Le {{1er|janvier|2000}} il part."),
        ("fr", "Le 1{{er|janvier|2000}} il part."),
        ("fr", "Il pèse {{unité|5|à|7|g}} ici."),
        ("ru", "Он умер {{ДС|1|2|1850|5|6|1799}} там."),
        ("ru", "Он {{цвет|red|текст}} там."),
        ("en", "It is {{convert|12,5|km}} big."),
        ("en", "See {{slink|Foo|Bar|Baz}} there."),
        ("en", "The {{nuclide|U|235|charge=2+}} decays."),
        ("de", "Das {{Farbe|rot|blau|Wort}} ist."),
    ],
)
def test_sentence_dropped(language: str, wikitext: str) -> None:
    dropped: dict[str, int] = {}
    assert not wikitext_to_paragraphs(wikitext, wiki=Wiki(language=language), dropped=dropped)
    assert dropped == {"unread_arguments": 1}
