"""Template names that mean something else on another wiki, in other letters or with other arguments."""

from __future__ import annotations

import pytest

from megatron_pz.wikitext.extract import wikitext_to_paragraphs
from megatron_pz.wikitext.localization import Wiki


def text_of(wikitext: str, language: str) -> str:
    return "\n\n".join(wikitext_to_paragraphs(wikitext, "T", Wiki(language)))


@pytest.mark.parametrize(
    ("language", "wikitext", "text"),
    [
        ("fr", "Voir {{pp|5}} et {{tmp|5|°C}} ici{{ca}}.", "Voir pp. 5 et 5 °C ici."),
        ("en", "It is so{{dn}} and so{{pp}}.", "It is so and so."),
        ("en", "The {{INS|Vikrant}} and the {{template:HMS|Ajax}}.", "The INS Vikrant and the HMS Ajax."),
        ("en", "The {{HNoMS|Eidsvold||2}} and the {{HSwMS|Gotland}}.", "The Eidsvold and the HSwMS Gotland."),
        ("ko", "10{{위|5}}과 H{{아래|2}}O다.", "10⁵과 H₂O다."),
        ("ja", "彼は{{by|1990年}}に。", "彼は1990年に。"),
        ("pt", "A {{lknb|Taça}} é isto.", "A Taça é isto."),
        ("ru", "Он умер {{ДС|2|1|1900|21|12}} и {{ДС|2|3|1900|18|2}}.",
         "Он умер 21 декабря 1899 (2 января 1900) и 18 февраля (2 марта) 1900."),
        ("es", "Es el {{siglo|XX||s}} en {{DMA|1950}}.", "Es el siglo XX en Dominica."),
        ("ro", "Este {{ill-wd|Alfa}} aici.", "Este Alfa aici."),
        ("en", "It is {{val|3|x|4|u=m}}, {{val|3|x|4|u=%}} or {{val|3|by|4|u=m}}.",
         "It is 3 m × 4 m, 3% × 4% or 3 by 4 m."),
        ("en", "1{{half}} {{cfb link|year=2010|team=T|title=Texas}} {{no redirect|A|B}} {{sname|C}}.",
         "1½ Texas B C."),
        ("en", "In {{bya|1950}}, {{dya|1950|1900}} and {{wsy|1999}}.", "In 1950, 1950 (aged 49–50) and 1999."),
    ],
)  # fmt: skip
def test_what_is_shown(language: str, wikitext: str, text: str) -> None:
    assert text_of(wikitext, language) == text


@pytest.mark.parametrize(
    ("language", "sentence"),
    [
        ("ro", "Ion (n. {{dn|1950|1|1}}) vine."),
        ("ro", "El este {{ill-wd|Q42}} aici."),
        ("es", "Es {{vs|Alfa}} y gama."),
        ("nl", "Hij is {{ca|1500}} geboren."),
        ("en", "He {{ins|added}} it."),
        ("en", "He got the {{won}} there."),
        ("en", "The word 中, {{lit|Middle}}, is {{unknown}} here."),
        ("fr", "Il fait {{tmp|5|à|20|°C}} ici."),
        ("ru", "Он {{unit|5|км|2}} там."),
        ("pt", "A {{lknb|Copa|2010}} é."),
        ("es", "Es el {{siglo|5}} ya."),
        ("es", "Es el {{DMA|1|1|1950}} ya."),
    ],
)
def test_what_is_not_understood_costs_its_sentence(language: str, sentence: str) -> None:
    assert text_of(f"{sentence} A b c.", language) == "A b c."
