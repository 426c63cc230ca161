"""Foreign words: their languages' labels, Japanese, Chinese and Korean spellings, phonetic transcriptions."""

from __future__ import annotations

from megatron_pz.wikitext.localization import LANGUAGE_NAMES
from megatron_pz.wikitext.marks import SOUND, SPOKEN, SPOKEN_END, UNREAD
from megatron_pz.wikitext.templates.parameters import Parameters, Render, first, positional, unless_empty

_OTHER_CODES = {"gre": "Greek", "grc-gre": "Greek", "iw": "Hebrew"}


def language_name(code: str) -> str:
    """English name of a language or of the language that a code with a script or country begins with, or nothing."""
    return _OTHER_CODES.get(code) or LANGUAGE_NAMES.get(code) or LANGUAGE_NAMES.get(code.partition("-")[0], "")


def labelled(code: str, text: str, parameters: Parameters) -> str:
    """``German: Wort``, or the text alone where no label is wanted or the language has no name here."""
    if not text:
        return UNREAD
    name = "" if parameters.get("label", "").casefold() == "none" else parameters.get("label") or language_name(code)
    shown = f"{name}: {text}" if name else text
    if meaning := parameters.get("lit"):
        shown += f", lit. ‘{meaning}’"
    return shown


def labelled_language(parameters: Parameters) -> str:
    """``{{langx|ru|слово}}`` -> Russian: слово."""
    return labelled(first(parameters), parameters.get("2") or parameters.get("text", ""), parameters)


def nihongo(parameters: Parameters) -> str:
    """``{{nihongo|English|kanji|rōmaji|extra|extra2}}`` -> English (kanji, rōmaji, extra) extra2."""
    english, *inside = (parameters.get(str(number), "") for number in range(1, 4))
    inside.append(parameters.get("4") or parameters.get("extra", ""))
    parenthesis = ", ".join(value for value in inside if value)
    after = parameters.get("5") or parameters.get("extra2", "")
    parts = [english, f"({parenthesis})" if parenthesis and english else parenthesis, after]
    return unless_empty(" ".join(part for part in parts if part))


def nihongo_by_sound(parameters: Parameters) -> str:
    """``{{nihongo3|English|kanji|rōmaji}}`` -> rōmaji (kanji, English)."""
    english, kanji, rōmaji = (parameters.get(str(number), "") for number in range(1, 4))
    return nihongo({"1": rōmaji, "2": kanji, "3": english})


def _scripts(*labelled: tuple[str, str]) -> Render:
    """Show labelled spellings of one word: ``Chinese: 漢語; pinyin: Hànyǔ``."""

    def render(parameters: Parameters) -> str:
        return "; ".join(f"{label}{parameters[name]}" for name, label in labelled if parameters.get(name)) or UNREAD

    return render


def nihongo_foot(parameters: Parameters) -> str:
    """``{{nihongo foot|English|kanji|rōmaji}}`` -> English, with the rest in a note."""
    return unless_empty(first(parameters))


def ruby(parameters: Parameters) -> str:
    """``{{ruby|東京|とうきょう}}`` -> 東京(とうきょう)."""
    base, gloss = ([*positional(parameters), "", ""])[:2]
    return f"{base}({gloss})" if base and gloss else unless_empty(base)


def transcription(parameters: Parameters) -> str:
    """``{{IPA|/x/}}`` and ``{{IPA|en|x}}``: shown between words, and dropped with what introduces it in parentheses."""
    values = positional(parameters)
    text = values[0] if len(values) == 1 else values[1] if len(values) > 1 else ""
    if not text:
        return SOUND
    if parameters.get("0") in ("ipaslink",):
        text = f"/{text}/"
    elif parameters.get("0") in ("ipablink",) or (len(values) > 1 and text[:1] not in "/[⟨"):
        text = f"[{text}]"
    return f"{SPOKEN}{text}{SPOKEN_END}"


FUNCTIONS: dict[str, Render] = {
    "labelled_language": labelled_language,
    "nihongo": nihongo,
    "nihongo_foot": nihongo_foot,
    "nihongo_by_sound": nihongo_by_sound,
    "chinese": _scripts(
        ("c", "Chinese: "),
        ("s", "simplified Chinese: "),
        ("t", "traditional Chinese: "),
        ("p", "pinyin: "),
        ("w", "Wade–Giles: "),
        ("j", "Jyutping: "),
        ("l", "lit. "),
    ),
    "korean": _scripts(("hangul", "Korean: "), ("hanja", "Hanja: "), ("rr", "RR: "), ("mr", "MR: ")),
    "ruby": ruby,
    "transcription": transcription,
}
