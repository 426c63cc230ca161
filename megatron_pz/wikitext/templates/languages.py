"""Render foreign words: their languages' labels, Japanese, Chinese and Korean spellings, phonetic transcriptions."""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from megatron_pz.wikitext.language_data import ENGLISH
from megatron_pz.wikitext.localization import LANGUAGE_NAMES
from megatron_pz.wikitext.marks import SOUND, SPOKEN, SPOKEN_END, UNREAD
from megatron_pz.wikitext.templates.parameters import Parameters, Render, first, knows, positional, unless_empty

_TRANSLITERATIONS: Final = ("translit", "tr", "r", "transl", "rom")
_MEANING_SECOND: Final = ("ru", "uk")
"""Wikis whose templates give the meaning after the text, without a transliteration."""
_OTHER_CODES = {"gre": "Greek", "grc-gre": "Greek", "iw": "Hebrew"}


def language_name(code: str) -> str:
    """Return the English name of a language code, also of one with a script or country, or an empty string."""
    return _OTHER_CODES.get(code) or LANGUAGE_NAMES.get(code) or LANGUAGE_NAMES.get(code.partition("-")[0], "")


@functools.cache
def _labels() -> Mapping[str, Any]:
    path = Path(__file__).parents[1] / "data" / "language_labels.toml"
    return tomllib.loads(path.read_text(encoding="utf-8"))


def labelled(code: str, parameters: Parameters, wiki: str, start: int = 1) -> str:
    """Render ``German: Wort``, or only the text if no label is requested or the language's name is unknown.

    Args:
        code: Code of the text's language.
        parameters: The text, its transliteration and its meaning, in this order or by name.
        wiki: Language of the wiki, in which the label is written.
        start: Number of the parameter with the text.
    """
    text = parameters.get(str(start)) or parameters.get("text", "")
    second, third = parameters.get(str(start + 1), ""), parameters.get(str(start + 2), "")
    is_english = wiki in ENGLISH
    if is_english:
        label, pattern = language_name(code), "{name}: {text}"
    else:
        rows = _labels().get(wiki, {"names": {}, "pattern": ""})
        label, pattern = rows["names"].get(code) or rows["names"].get(code.partition("-")[0], ""), rows["pattern"]
    wanted = parameters.get("label", "")
    label = "" if wanted.casefold() == "none" else wanted or label
    if not text:
        return label or UNREAD
    shown = pattern.format(name=label, text=text) if label else text
    if wiki in _MEANING_SECOND:
        second, third = third, second
    if transliteration := next(filter(None, map(parameters.get, _TRANSLITERATIONS)), second):
        shown += f", {'romanized: ' if is_english and label else ''}{transliteration}"
    if is_english and (thai := parameters.get("rtgs")):
        shown += f", RTGS: {thai}"
    if meaning := parameters.get("lit") or third:
        shown += f", lit. ‘{meaning}’" if is_english else f" «{meaning}»"
    return shown


def labelled_language(parameters: Parameters) -> str:
    """Render ``{{langx|ru|слово}}`` -> Russian: слово."""
    return labelled(first(parameters), parameters, parameters.get("@", "en"), 2)


def nihongo(parameters: Parameters) -> str:
    """Render ``{{nihongo|English|kanji|rōmaji|extra|extra2}}`` -> English (kanji, rōmaji, extra) extra2."""
    english, *inside = (parameters.get(str(number), "") for number in range(1, 4))
    inside.append(parameters.get("4") or parameters.get("extra", ""))
    parenthesis = ", ".join(value for value in inside if value)
    after = parameters.get("5") or parameters.get("extra2", "")
    parts = [english, f"({parenthesis})" if parenthesis and english else parenthesis, after]
    return unless_empty(" ".join(part for part in parts if part))


def nihongo_by_sound(parameters: Parameters) -> str:
    """Render ``{{nihongo3|English|kanji|rōmaji}}`` -> rōmaji (kanji, English)."""
    english, kanji, rōmaji = (parameters.get(str(number), "") for number in range(1, 4))
    return nihongo({"1": rōmaji, "2": kanji, "3": english})


_CHINESE_LABELS: Final = (
    ("c", "Chinese: "), ("s", "simplified Chinese: "), ("t", "traditional Chinese: "), ("p", "pinyin: "),
    ("hp", "Hanyu Pinyin: "), ("tp", "Tongyong Pinyin: "), ("w", "Wade–Giles: "), ("j", "Jyutping: "),
    ("cy", "Cantonese Yale: "), ("sl", "Sidney Lau: "), ("poj", "Pe̍h-ōe-jī: "), ("tl", "Tâi-lô: "),
    ("zhu", "Zhuyin Fuhao: "), ("l", "lit. "),
)  # fmt: skip
_KOREAN_LABELS: Final = (("hangul", "Korean: "), ("hanja", "Hanja: "), ("rr", "RR: "), ("mr", "MR: "))


def chinese(parameters: Parameters) -> str:
    """Render ``{{zh|c=漢語|p=Hànyǔ|l=Han language}}`` -> Chinese: 漢語; pinyin: Hànyǔ; lit. ‘Han language’."""
    known = ("0", "labels", "links", "first", "scase", "out", "lk", *(name for name, _ in _CHINESE_LABELS))
    if not knows(parameters, known):
        return UNREAD
    words = dict(parameters)
    if words.get("s") and words.get("s") == words.get("t"):
        words["c"] = words.pop("s")
        del words["t"]
    if words.get("l"):
        words["l"] = f"‘{words['l'].strip(chr(39))}’"
    labels = list(_CHINESE_LABELS)
    if "t" in words.get("first", "")[:1]:
        labels.insert(1, labels.pop(2))
    return _spellings("zh", labels, words)


def german_chinese(parameters: Parameters) -> str:
    """Render ``{{zh|t=中國|s=中国|p=Zhōngguó|b=China}}`` -> chinesisch 中國 / 中国, Pinyin Zhōngguó, ‚China‘."""
    signs = (parameters.get(name, "") for name in ("c", "1", "t", "s"))
    shown = f"chinesisch {' / '.join(dict.fromkeys(filter(None, signs)))}".rstrip()
    for label, name, end in (("Pinyin ", "p", ""), ("W.-G. ", "w", ""), ("‚", "b", "‘")):
        shown += f", {label}{parameters[name]}{end}" if parameters.get(name) else ""
    return shown


_FRENCH_LABELS: Final = (
    ("c", "chinois : "), ("s", "chinois simplifié : "), ("t", "chinois traditionnel : "), ("p", "pinyin : "),
    ("w", "Wade : "), ("j", "cantonais Jyutping : "), ("l", "litt. "),
)  # fmt: skip


def french_chinese(parameters: Parameters) -> str:
    """Render ``{{chinois|c=北京|p=Běijīng}}`` -> chinois : 北京 ; pinyin : Běijīng."""
    shown = [label + parameters[name] for name, label in _FRENCH_LABELS if parameters.get(name)]
    return unless_empty(" ; ".join(shown))


def korean(parameters: Parameters) -> str:
    """Render ``{{korean|서울|hanja|Seoul}}`` and ``{{korean|hangul=서울|rr=Seoul}}`` -> Korean: 서울; RR: Seoul."""
    positions = {name: parameters.get(str(place), "") for place, (name, _) in enumerate(_KOREAN_LABELS, 1)}
    return _spellings("ko", _KOREAN_LABELS, positions | {name: value for name, value in parameters.items() if value})


def _spellings(code: str, labels: Iterable[tuple[str, str]], words: Parameters) -> str:
    """Show labelled spellings of a word, ``Chinese: 漢語; pinyin: Hànyǔ``, or the word after its language's label."""
    bare = words.get("labels") == "no"
    shown = "; ".join((not bare) * label + words[name] for name, label in labels if words.get(name))
    wiki = words.get("@", "")
    if wiki in ENGLISH:
        return shown or UNREAD
    return UNREAD if shown and first(words) == "" else labelled(code, words, wiki)


def nihongo_foot(parameters: Parameters) -> str:
    """Render ``{{nihongo foot|English|kanji|rōmaji}}`` -> English, with the rest in a note."""
    return unless_empty(first(parameters))


def ruby(parameters: Parameters) -> str:
    """Render ``{{ruby|東京|とうきょう}}`` -> 東京(とうきょう)."""
    base, gloss = ([*positional(parameters), "", ""])[:2]
    return f"{base}({gloss})" if base and gloss else unless_empty(base)


_LOCAL_TRANSCRIPTIONS: Final = ("afi", "api", "мфа", "мфа2")
"""Names of {{IPA}} on other wikis; a file may follow the text."""


def transcription(parameters: Parameters) -> str:
    """Render ``{{IPA|/x/}}`` and ``{{IPA|en|x}}``; in parentheses they are dropped together with their introduction."""
    values = positional(parameters)
    is_local = parameters.get("0") in _LOCAL_TRANSCRIPTIONS
    text = values[0] if len(values) == 1 or (values and is_local) else values[1] if len(values) > 1 else ""
    if not text:
        return SOUND
    if is_local:
        text = text if text[0] in "/[⟨" else f"[{text}]"
    elif parameters.get("0") in ("ipaslink",):
        text = f"/{text}/"
    elif parameters.get("0") in ("ipablink",) or (len(values) > 1 and text[:1] not in "/[⟨"):
        text = f"[{text}]"
    return f"{SPOKEN}{text}{SPOKEN_END}"


FUNCTIONS: dict[str, Render] = {
    "labelled_language": labelled_language,
    "nihongo": nihongo,
    "nihongo_foot": nihongo_foot,
    "nihongo_by_sound": nihongo_by_sound,
    "chinese": chinese,
    "korean": korean,
    "german_chinese": german_chinese,
    "french_chinese": french_chinese,
    "ruby": ruby,
    "transcription": transcription,
}
