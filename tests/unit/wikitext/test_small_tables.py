"""Notes and languages in the tables of wikis that have few rows."""

from __future__ import annotations

import pytest

from megatron_pz.wikitext.extract import wikitext_to_paragraphs
from megatron_pz.wikitext.localization import Wiki


@pytest.mark.parametrize(
    ("language", "wikitext", "text"),
    [
        ("nl", "Het is {{Bron?|mooi|2010|1|1}}.{{Bron?||2010|11|5}} Volgens {{wie?||2010|1|1}} hem.",
         "Het is mooi. Volgens hem."),
        ("da", "Den er stor{{kilde mangler|dato=2010}}, siger {{hvem?|dato=2010}} han.", "Den er stor, siger han."),
        ("no", "Oslo{{tr}} er stor {{når?}} nå.", "Oslo er stor nå."),
        ("sv", "Byn{{källa behövs}} är {{vilken?}} stor. {{citat|Så är det|Ek}}", "Byn är stor.\n\nSå är det"),
        ("fi", "Nimi ({{k-en|London}}, {{k-ru|Москва}}) on {{kuka?}} tämä{{lähde|1. kesäkuuta 2010}}.",
         "Nimi (engl. London, ven. Москва) on tämä."),
        ("hu", "Budapest{{forr}} nagy és {{mikor?}} szép.{{forrás?}}", "Budapest nagy és szép."),
        ("ro", "Orașul{{nevoie de citare}} e mare {{când?|date=x}} aici.", "Orașul e mare aici."),
        ("el", "Η Αθήνα{{εκκρεμεί παραπομπή}} είναι {{ποιος;}} μεγάλη{{Πηγές}}.", "Η Αθήνα είναι μεγάλη."),
        ("cs", "V {{vlajka a název|Česko}} žil {{kým?}} on.", "V Česko žil on."),
        ("pl", "Miasto ({{ang.|London}}; {{łac.|Londinium}}) leży {{kto?}} w {{Państwo|POL}}.",
         "Miasto (ang. London; łac. Londinium) leży w Polska."),
        ("tr", "Şehir ({{dil-en|London}}) büyük {{kaynak?}} ve eski.", "Şehir (İngilizce: London) büyük ve eski."),
        ("he", "הוא אמר:\n\n{{ציטוט|תוכן=כן}}", "הוא אמר:\n\nכן"),
        ("fr", "Il dit {{«}}oui{{»}} à {{nobr romains|Louis|XIV}} et {{formule chimique|H|2|O}}.",
         "Il dit « oui » à Louis XIV et H₂O."),
        ("uk", "У 50 {{до н.е.}} та 50 {{н. е.}} року.", "У 50 до н. е. та 50 н. е. року."),
    ],
)  # fmt: skip
def test_what_a_wiki_shows(language: str, wikitext: str, text: str) -> None:
    assert "\n\n".join(wikitext_to_paragraphs(wikitext, "T", Wiki(language))) == text


@pytest.mark.parametrize(("language", "sentence"), [("pl", "To {{ang.|a|b}} jest."), ("tr", "Bu {{dil-ar|a|b}} var.")])
def test_a_transcription_that_is_not_understood_costs_its_sentence(language: str, sentence: str) -> None:
    assert wikitext_to_paragraphs(f"{sentence} Alfa beta.", "T", Wiki(language)) == ["Alfa beta."]
