r"""Ask SuperGPQA and read the answers as its authors do in their zero-shot setting.

Source: ``config/prompt/zero-shot.yaml`` and ``eval/eval.py`` of https://github.com/SuperGPQA/SuperGPQA. An answer is
searched in the response's last line, then in the whole response: a letter by three patterns, then an option's text by
three more. The authors' patterns nest repetitions and are aborted after five seconds; this module matches the same
texts in time linear in the response.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from megatron_pz.question_answering.question import LETTERS, Question

_INSTRUCTION: Final = (
    "Answer the following multiple choice question. There is only one correct answer. The last line of your response "
    "should be in the format 'Answer: $LETTER' (without quotes), where LETTER is one of A, B, C, D, E, F, G, H, I, or "
    "J."
)

_COMMAND: Final = r"(?:boxed|mathbf|mathrm|text)\{"
_MARKUP: Final = rf"(?:\\{_COMMAND}|[*${{\[\\(])"
"""Optional text before an answer."""
_CLOSING_CHARACTERS: Final = "\\}$]"
_CLOSING: Final = r"[\\}$\]]*+"
_AFTER: Final = r"(?:[\s:.*)]|$)"
"""Required text after an answer and its closing markup."""
_SUBJECT: Final = r"[Tt]he\s++(?:\w++\s++)?(?:answer|option)(?:\w++\s{2,}+|\s++)"
"""The subject of "The correct answer is"; the authors' pattern wants two spaces after "answers"."""

_LETTER: Final = rf"\s*+([A-J]){_CLOSING}{_AFTER}"
_LETTER_PATTERNS: Final = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"{_SUBJECT}is?:?\s*+{_MARKUP}*+{_LETTER}",
        rf"answer[*\s]*+:\s*+{_MARKUP}*+{_LETTER}",
        rf"^[^\w\r\n]*+(?:(?<=\\){_COMMAND}{_MARKUP}*+)?{_LETTER}",
    )
)
_SENTENCES: Final = (re.compile(rf"{_SUBJECT}is:?\s*+"), re.compile(r"(?i:answer)\s*+"))
_OPENING: Final = re.compile(_MARKUP)
_LEADING: Final = re.compile(r"[^\w\r\n]*+")
_COMMAND_NAME: Final = re.compile(_COMMAND)
_SPACE: Final = re.compile(r"\s*+")
_END: Final = re.compile(rf"({_CLOSING}){_AFTER}?+")


def write(question: Question) -> str:
    """Return the user's text."""
    options = "\n".join(f"{letter}) {option}" for letter, option in zip(LETTERS, question.options, strict=False))
    return f"{_INSTRUCTION}\n\n{question.text}\n{options}\n"


def read(response: str, options: Sequence[str]) -> str | None:
    r"""Return the letter that a response gives or whose option it spells out, or None.

    A lower-case letter is returned as it is and therefore counts as wrong, as in the authors' code.

    >>> read("So the correct answer is **(B)**.", ["x", "y"]), read("Answer: $\\boxed{J}$", ["x", "y"])
    ('B', 'J')
    >>> read("The answer is y.", ["x", "y"]), read("It is y", ["x", "y"])
    ('B', None)
    """
    text = response.rstrip()
    texts = (text.rpartition("\n")[2], text)
    for part in texts:
        for pattern in _LETTER_PATTERNS:
            if found := pattern.search(part):
                return found.group(1)
    for part in texts:
        if (option := _OptionReader(part, options).read()) is not None:
            return LETTERS[options.index(option)]
    return None


class _OptionReader:
    """Looks for an option's text where an answer would stand."""

    def __init__(self, text: str, options: Sequence[str]) -> None:
        """Keep the text and the options, without reading yet."""
        self.text = text
        self.options = options
        self.run = (
            0,
            -1,
            False,
        )  # start and end of the last examined markup, and whether an answer may precede it

    def read(self) -> str | None:
        """Return the option that a sentence states or with which the text begins."""
        for sentence in _SENTENCES:
            for found in sentence.finditer(self.text):
                if (option := self.after_markup(found.end())) is not None:
                    return option
        return self.leading()

    def after_markup(self, position: int) -> str | None:
        """Return the option at a position, or after the shortest opening markup that is followed by one."""
        while True:
            if (option := self.behind_space(position)) is not None:
                return option
            if not (markup := _OPENING.match(self.text, position)):
                return None
            position = markup.end()

    def leading(self) -> str | None:
        """Return the option after the text's leading punctuation; the option may begin within the punctuation."""
        begin = _LEADING.match(self.text)
        assert begin is not None
        if (option := self.behind_space(begin.end())) is not None:
            return option
        for position in range(begin.end() - 1, -1, -1):
            # A backslash before a command is both punctuation and the beginning of markup.
            command = self.text[position] == "\\" and _COMMAND_NAME.match(self.text, position + 1)
            if command and (option := self.after_markup(command.end())) is not None:
                return option
            if (option := self.at(position)) is not None:
                return option
        return None

    def behind_space(self, position: int) -> str | None:
        """Return the option at a position after optional white space."""
        space = _SPACE.match(self.text, position)
        assert space is not None
        return self.at(space.end())

    def at(self, position: int) -> str | None:
        """Return the first option that occurs at a position and ends as an answer does."""
        for option in self.options:
            if self.text.startswith(option, position) and self.ends(position + len(option)):
                return option
        return None

    def ends(self, position: int) -> bool:
        """Return whether optional closing markup and then the end, white space or punctuation follows."""
        begin, end, followed = self.run
        if not begin <= position <= end:
            found = _END.match(self.text, position)
            assert found is not None
            begin, end = found.span(1)
            while begin < end and begin > 0 and self.text[begin - 1] in _CLOSING_CHARACTERS:
                begin -= 1  # the whole run has the same end, so examine it once
            followed = found.end() > end or end == len(self.text)
            self.run = begin, end, followed
        return followed
