"""Words that introduce a pronunciation, and say nothing once it is gone."""

from __future__ import annotations

import re

_SOUND_WORDS = re.compile(
    r"(?:(?<!\w)(?:pronounced|pronunciation|pronounce|pron\.|ipa|us|uk|or|also|locally|english|in english|listen|as|"
    r"english pronunciation|british|american|aussprache|prononcé|prononciation)[ :,;/]*)+$",
    re.IGNORECASE,
)


def without_sound_words(text: str) -> str:
    """The text without such words at its end: ``Paris (UK: `` becomes ``Paris (``."""
    return _SOUND_WORDS.sub("", text)
