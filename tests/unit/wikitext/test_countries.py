"""Templates that show a country's name: every row of the tables, and other templates."""

from __future__ import annotations

import tomllib

import pytest

from megatron_pz.wikitext.extract import wikitext_to_paragraphs
from megatron_pz.wikitext.localization import Wiki
from megatron_pz.wikitext.templates import countries

LANGUAGES = sorted(path.stem for path in countries.DIRECTORY.glob("*.toml") if path.stem != "codes")
CODES = tomllib.loads((countries.DIRECTORY / "codes.toml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_country_is_shown_by_its_codes(language: str) -> None:
    used = set()
    for country, codes in CODES.items():
        for code in codes.split():
            name = countries.names(language).get(country, "")
            if name:
                used.add(country)
                assert countries.of_code(code, language) == countries.of_code(country, language) == name
    assert used | {"ENG", "SCO", "WAL", "NIR", "TPE", "FRG", "ZAI", "SCG"} >= set(countries.names(language))


def test_a_code_names_one_country() -> None:
    codes = " ".join(CODES.values()).split()
    assert len(codes) == len(set(codes))


@pytest.mark.parametrize(
    ("language", "wikitext", "text"),
    [
        ("en", "{{GER}} beat {{JAM}} and {{ENG}}.", "Germany beat Jamaica and England."),
        ("en", "It is {{esp|6}} and {{ESP}}.", "It is ×10⁶ and Spain."),
        ("en", "{{FRA|1830}} lost to {{flagcountry|SUI}} and {{flagcountry|Peru}}.",
         "France lost to Switzerland and Peru."),
        ("en", "{{fb|IRL}} lost to {{fb|NED}}.", "Republic of Ireland lost to Netherlands."),
        ("simple", "{{GRE}} won.", "Greece won."),
        ("de", "{{BRA}} schlug {{JAM}}, {{CHE|#}}Bern kam.", "Brasilien schlug Jamaika, Bern kam."),
        ("es", "Nació en {{NOR}} y {{bandera2|ITA}}.", "Nació en Noruega y Italia."),
        ("pt", "Foi em {{ESP}}.", "Foi em Espanha."),
        ("ja", "{{GER}}の都市。{{国旗|JPN}}。", "ドイツの都市。日本。"),
        ("zh", "{{BRA}}很大。{{jpn|j=青}}。", "巴西很大。日語：青。"),
        ("ko", "{{KOR}}이 {{국기나라|프랑스}}를 이겼다.", "대한민국이 프랑스를 이겼다."),
        ("fa", "او از {{IRN}} و {{flag|USA}} است.", "او از ایران و ایالات متحده است."),
        ("hi", "वह {{IND}} और {{ध्वज|NEP}} में रहा।", "वह भारत और नेपाल में रहा।"),
        ("th", "เขาอยู่ใน {{THA}} และ {{ธง|JPN}}", "เขาอยู่ใน ไทย และ ญี่ปุ่น"),
        ("en", "{{URS}} beat {{TCH}}, {{YUG}} and {{GDR}}.",
         "Soviet Union beat Czechoslovakia, Yugoslavia and East Germany."),
        ("de", "Aus {{SCG}} und {{XKX}} kam er.", "Aus Serbien und Montenegro und Kosovo kam er."),
        ("ru", "Он жил в стране {{СССР}}.", "Он жил в стране СССР."),
        ("fr", "Il vit en {{Allemagne}} et {{ITA}}.", "Il vit en Allemagne et Italie."),
        ("fr", "Le kurde ({{turquie}}, {{irak}}) est là.", "Le kurde (Turquie, Irak) est là."),
        ("ru", "{{Германия}} победила.", "Германия победила."),
        ("en", "{{fb|TPE}} met {{fb|FRG}} and {{flag|Spain|name=ESP B}}.",
         "Chinese Taipei met West Germany and ESP B."),
        ("es", "Ganó {{sel|IRL}} a {{TPE}}.", "Ganó Irlanda a China Taipéi."),
    ],
)  # fmt: skip
def test_countries(language: str, wikitext: str, text: str) -> None:
    assert wikitext_to_paragraphs(wikitext, "T", Wiki(language)) == [text]


@pytest.mark.parametrize(
    ("language", "template"),
    [("en", "ger"), ("en", "XQX"), ("en", "FRA|size=20px"), ("ru", "FRA"), ("nl", "FRA"), ("en", "flagcountry|XQX")],
)
def test_what_shows_no_country_drops_its_sentence(language: str, template: str) -> None:
    assert wikitext_to_paragraphs(f"It was {{{{{template}}}}} then. End.", "T", Wiki(language)) == ["End."]
