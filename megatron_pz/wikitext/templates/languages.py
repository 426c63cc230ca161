"""Foreign words: ``{{lang|…}}``, transliterations, Japanese, Chinese and Korean; pronunciations, which are dropped."""

from __future__ import annotations

from megatron_pz.wikitext.localization import LANGUAGE_NAMES
from megatron_pz.wikitext.marks import DROPPED, SOUND
from megatron_pz.wikitext.templates.parameters import (
    Parameters,
    Render,
    around,
    constant,
    first,
    last,
    renderers,
    second,
)


def _language_text(label: str) -> Render:
    return lambda parameters: f"{label}{first(parameters)}" if first(parameters) else DROPPED


def _langx(parameters: Parameters) -> str:
    name = LANGUAGE_NAMES.get(first(parameters).partition("-")[0], "")
    text = parameters.get("2") or parameters.get("text", "")
    label = f"{name}: " if name and parameters.get("label", "yes") != "none" else ""
    return f"{label}{text}" if text else DROPPED


def _nihongo(parameters: Parameters) -> str:
    """``{{nihongo|English|kanji|rōmaji|extra|extra2}}`` -> English (kanji, rōmaji, extra) extra2."""
    english, *inside = (parameters.get(str(number), "") for number in range(1, 4))
    inside.append(parameters.get("4") or parameters.get("extra", ""))
    parenthesis = ", ".join(value for value in inside if value)
    after = parameters.get("5") or parameters.get("extra2", "")
    parts = [english, f"({parenthesis})" if parenthesis and english else parenthesis, after]
    return " ".join(part for part in parts if part)


def _nihongo_rōmaji_first(parameters: Parameters) -> str:
    english, kanji, rōmaji = (parameters.get(str(number), "") for number in range(1, 4))
    return _nihongo({"1": rōmaji, "2": kanji, "3": english})


def _scripts(*labelled: tuple[str, str]) -> Render:
    """Labelled spellings of one word: ``Chinese: 漢語; pinyin: Hànyǔ``."""

    def render(parameters: Parameters) -> str:
        return "; ".join(f"{label}{parameters[name]}" for name, label in labelled if parameters.get(name)) or DROPPED

    return render


def _transliteration(parameters: Parameters) -> str:
    """Language, optionally a scheme, and the text, which is the last."""
    return last(parameters)


RENDERERS = renderers(
    (
        "lang|langue|script|wikt-lang|resize|font color|color|colour|fontcolor|background color|audio|rtl-lang|"
        "ordinal to",
        second,
    ),
    ("font|langwithname|native name|native phrase|lang-multi", last),
    ("transl|transliteration|translit|translation|langr", _transliteration),
    ("langx|lang-x", _langx),
    *((f"lang-{code}", _language_text(f"{name}: ")) for code, name in LANGUAGE_NAMES.items()),
    ("lang-grc-gre|lang-gre", _language_text("Greek: ")),
    ("lang-sr-cyr|lang-sr-cyrl|lang-sr-latn|lang-sr-lat", _language_text("Serbian: ")),
    ("lang-iw", _language_text("Hebrew: ")),
    ("nihongo|nihongo-s|nihongo title", _nihongo),
    ("nihongo2", first),
    ("nihongo3", _nihongo_rōmaji_first),
    (
        "zh|zh-full|zh-cn|zh-tw|lang-zh",
        _scripts(
            ("c", "Chinese: "),
            ("s", "simplified Chinese: "),
            ("t", "traditional Chinese: "),
            ("p", "pinyin: "),
            ("w", "Wade–Giles: "),
            ("j", "Jyutping: "),
            ("l", "lit. "),
        ),
    ),
    ("zh-c|zh-t|zh-s|zh-p", first),
    (
        "korean|ko-hhrm|lang-ko2",
        _scripts(("hangul", "Korean: "), ("hanja", "Hanja: "), ("rr", "RR: "), ("mr", "MR: ")),
    ),
    ("literal translation|lit|lit.|literally", around("lit. ‘", "’")),
    ("gloss", around("‘", "’")),
    (
        "ipa|ipac-en|ipac-de|ipac-fr|ipac-pl|ipac-cmn|ipac-yue|ipac-hu|ipac-pt|ipac-ga|respell|respelling|pron|"
        "pron-en|pronunciation|"
        "pronunciation respelling|usdict|enpr|ipalink|ipa link|ipa-all|listen|pronounced|needs-ipa|ipa notice|"
        "pronunciation-needed|h:ipa|ipa2|audio-ipa|ipablink|angle ipa",
        constant(SOUND),
    ),
)
