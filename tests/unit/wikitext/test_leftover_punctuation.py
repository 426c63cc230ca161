"""Punctuation left by dropped markup in a parenthesis is removed in every script; the author's text stays."""

from __future__ import annotations

import pytest

from megatron_pz.wikitext import scanner_form
from megatron_pz.wikitext.localization import Wiki

LOST = "{{IPA|x}}"

CASES = [
    ("en", f"Paris ({LOST}, {LOST}; 1950) is big.", "Paris (1950) is big."),
    ("de", f"Köln ({LOST}; * 1950) ist groß.", "Köln (* 1950) ist groß."),
    ("fr", f"Nice ({LOST} ; {LOST}) est belle.", "Nice est belle."),
    ("fr", f"Nice ({LOST} ; 1950) est belle.", "Nice (1950) est belle."),
    (
        "fr",
        "En 1994<ref>a</ref> : l'un<ref>b</ref> ; l'autre<ref>c</ref> ! Et<ref>d</ref> , quoi<ref>e</ref> ?",
        "En 1994 : l'un ; l'autre ! Et, quoi ?",
    ),
    ("en", "In 1994<ref>a</ref> : one<ref>b</ref> ; two<ref>c</ref> !", "In 1994: one; two!"),
    ("ru", f"Омск ({LOST}, {LOST}) — город.", "Омск — город."),
    ("ja", f"東京（{LOST}、{LOST}、1950年 - ）は都市である。", "東京（1950年 -）は都市である。"),
    ("ja", f"東京【{LOST}・{LOST}・1950年】は都市。", "東京【1950年】は都市。"),
    ("zh", f"北京（{LOST}，{LOST}；1950年）是城市。", "北京（1950年）是城市。"),
    ("zh", f"北京（{LOST}：1950年，{LOST}）是城市。", "北京（1950年）是城市。"),
    ("zh", f"北京［{LOST}、{LOST}］是城市。", "北京是城市。"),
    ("zh", f"北京〔{LOST}〕是城市。", "北京是城市。"),
    ("ko", f"서울({LOST}, {LOST})은 수도이다.", "서울은 수도이다."),
    ("ar", f"القاهرة ({LOST}، {LOST}، 1950) مدينة.", "القاهرة (1950) مدينة."),
    ("fa", f"تهران ({LOST}؛ 1950) شهر است.", "تهران (1950) شهر است."),
    ("he", f"חיפה ({LOST}, {LOST}; 1950) היא עיר.", "חיפה (1950) היא עיר."),
    ("hi", f"दिल्ली ({LOST}, १९५०) नगर है।", "दिल्ली (१९५०) नगर है।"),
    ("th", f"กรุงเทพ ({LOST}, {LOST}) เป็นเมือง", "กรุงเทพ เป็นเมือง"),
    ("my", f"ရန်ကုန် ({LOST}၊ ၁၉၅၀) မြို့။", "ရန်ကုန် (၁၉၅၀) မြို့။"),
    ("am", f"አዲስ አበባ ({LOST}፣ {LOST}፤ 1950) ናት።", "አዲስ አበባ (1950) ናት።"),
    ("el", f"Αθήνα ({LOST}, 1950) είναι πόλη.", "Αθήνα (1950) είναι πόλη."),
    ("hy", f"Երևան ({LOST}, 1950) քաղաք է։", "Երևան (1950) քաղաք է։"),
    ("tr", f"İzmir ({LOST}, {LOST}) bir şehirdir.", "İzmir bir şehirdir."),
    ("en", f"Paris ({LOST}; French: {LOST}) is.", "Paris is."),
    ("en", "Paris (French pronunciation: {{IPA-fr|x}}; born 1950) is.", "Paris (born 1950) is."),
    ("en", f"Rio (Brazilian Portuguese: {LOST}, 1950) is.", "Rio (1950) is."),
    ("en", f"Łódź (Polish: Łódź, pronounced: {LOST}) is.", "Łódź (Polish: Łódź) is."),
    ("en", f"Bern (né Ber, Ann pronounced {LOST}) is.", "Bern (né Ber, Ann) is."),
    (
        "de",
        f"Köln ([{LOST}]; kölsch Kölle) und [{LOST}] {{{{Audio|x.ogg|Anhören}}}} hier.",
        "Köln (kölsch Kölle) und [x] hier.",
    ),
    ("de", f"Köln ([{LOST}] {{{{Audio|x.ogg|Aussprache}}}}, [{LOST}], 1950) hier.", "Köln (1950) hier."),
    ("en", f"Foo (/{LOST}/ or /{LOST}/; a/b) is {LOST}/y.", "Foo (a/b) is x/y."),
    ("es", f"Lima (pronunciado {LOST}; 1950) es.", "Lima (1950) es."),
    ("ru", f"Омск (произносится {LOST}, 1950) — город.", "Омск (1950) — город."),
    ("ja", "読点（、）と中黒（・）を使う。", "読点（、）と中黒（・）を使う。"),
    ("zh", "顿号（、）和逗号（，）。", "顿号（、）和逗号（，）。"),
]
FORMS = [scanner_form.load_interpreted()] + ([scanner_form.scan_page] if scanner_form.compiled else [])


@pytest.mark.parametrize("scan_page", FORMS, ids=["interpreted", "compiled"][: len(FORMS)])
@pytest.mark.parametrize(("language", "wikitext", "text"), CASES)
def test_leftover_punctuation(scan_page: scanner_form.ScanPage, language: str, wikitext: str, text: str) -> None:
    assert scan_page(wikitext, "T", Wiki(language=language), frozenset()) == [text]
