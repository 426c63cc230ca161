r"""Ask mathematics and read and normalize the answers by the rules of Qwen2.5-Math's evaluation.

Source: ``evaluation/parser.py`` of https://github.com/QwenLM/Qwen2.5-Math (prompt ``qwen25-math-cot``). Departures:
only those words of its list of units are removed that are units; number words are not converted; the word "and" and the
content of ``\mbox`` are kept.
"""

from __future__ import annotations

import re
from typing import Final

from megatron_pz.question_answering.question import Question

SYSTEM: Final = "Please reason step by step, and put your final answer within \\boxed{}."
STOP: Final = ("</s>", "<|im_end|>", "<|endoftext|>")
LONGEST_ANSWER: Final = 2_000
"""Longest answer in characters. A longer text, as after an unclosed box, is not an answer and is not normalized."""

_CHINESE_PHRASE: Final = "答案是"
_NUMBER: Final = re.compile(r"-?\d*\.?\d+")
_BRACE: Final = re.compile(r"[{}]")
_UNITS: Final = (
    "degrees? mph kmph ft feet inch(?:e?s)? yards? miles? mm cm dm km m mtr meters? metres? gm kg g lbs? seconds? "
    "secs? minutes? mins? hours? hrs? days? months? years? yrs? gallons? gal liters? litres? acres? hectares? "
    "rupees? percent square cubic sq ohms? units? men women soldiers? coins? tiles? apples?"
).split()
_UNIT: Final = re.compile(rf"(?<!\w)(?<!\\)(?:{'|'.join(_UNITS)})(?!\w)")
_NESTED: Final = r"\{((?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*)\}"
"""Braces that nest two more levels."""
_TRAILING_TEXT: Final = re.compile(rf"\\text{_NESTED}$")
_TEXT: Final = re.compile(rf"\\(?:text|mbox){_NESTED}")
_ARRAY: Final = re.compile(r"\\begin\{array\}\{[^{}]*\}")
_WHOLE: Final = re.compile(r"(\d+)\.0*(?!\d)")
_DIGIT_FRACTION: Final = re.compile(r"\\frac(?:(\d)(\d|\{[^{}]*\})|(\{[^{}]*\})(\d))")
_SLASH: Final = re.compile(r"(-?\d+|-?\d*\\sqrt\{?\w+\}?)/(\d+|\d*\\sqrt\{?\w+\}?)")
_BARE_ROOT: Final = re.compile(r"\\sqrt(\w+)")
_REPLACED: Final = (
    ("\\!", ""),
    ("\\end{array}", "\\end{pmatrix}"),
    ("bmatrix", "pmatrix"),
    ("tfrac", "frac"),
    ("dfrac", "frac"),
    ("\\neq", "\\ne"),
    ("\\leq", "\\le"),
    ("\\geq", "\\ge"),
    ("\\left", ""),
    ("\\right", ""),
    ("\\{", "{"),
    ("\\}", "}"),
)
_REMOVED: Final = ("^{\\circ}", "^\\circ", "\\$", "$", "\\(", "\\)")


def write(question: Question) -> str:
    """Return the user's text; the system message is :data:`SYSTEM`."""
    hints = {"true": " (True or False)", "false": " (True or False)", "yes": " (Yes or No)", "no": " (Yes or No)"}
    return (question.text.strip() + hints.get(question.answer.strip().lower(), "")).strip()


def read(response: str) -> str | None:
    r"""Return the answer of a response without normalization; None if there is none.

    The answer is the first of these that exists: the text after "final answer is $"; the last box (up to the end of the
    response if it is not closed); the text after the last "he answer is", otherwise "final answer is"; the paragraph
    after the first Chinese "the answer is"; the last number.

    >>> read("So \\boxed{\\frac12}."), read("The final answer is (1, 2)."), read("I get 1,234 ducks")
    ('\\frac12', '(1, 2)', '1234')
    """
    text = response
    for token in STOP:
        text = text.partition(token)[0].strip()
    if "final answer is $" in text and "$. I hope" in text:
        answer = text.partition("final answer is $")[2].partition("$. I hope")[0].strip()
    elif "boxed" in text:
        answer = _boxed(text.rpartition("boxed")[2])
    elif phrase := next((each for each in ("he answer is", "final answer is") if each in text), None):
        answer = text.rpartition(phrase)[2].strip()
    elif _CHINESE_PHRASE in text:
        answer = text.split(_CHINESE_PHRASE)[1].strip().partition("\n\n")[0].strip()
    else:
        answer = _last_number(text.replace(",", ""))
    answer = answer.removeprefix(":").removesuffix(".").removesuffix("/").strip()
    return answer or None


def _boxed(rest: str) -> str:
    """Return the content of a box, given the text after its name."""
    if not rest.startswith("{"):
        return rest.partition("$")[0].strip()
    level = 0
    for brace in _BRACE.finditer(rest):
        level += 1 if brace.group() == "{" else -1
        if level == 0:
            return rest[1 : brace.start()]
    return rest[1:]


def _last_number(text: str) -> str:
    number = ""
    for found in _NUMBER.finditer(text):
        number = found.group()
    return number


def normalize(answer: str, keep_units: bool = False) -> str:
    r"""Return an answer in the form for comparison.

    Args:
        answer: LaTeX or text of at most :data:`LONGEST_ANSWER` characters; a longer one is returned unchanged.
        keep_units: Keep the names of units, as for Minerva's answers.

    >>> normalize("x = \\dfrac{1}2 \\text{ cm}"), normalize("90^\\circ"), normalize("3.0"), normalize("-1/2")
    ('\\frac{1}{2}', '90', '3', '-\\frac{1}{2}')
    """
    if len(answer) > LONGEST_ANSWER:
        return answer
    text = "".join(line.lstrip() for line in answer.strip().split("\n")).rstrip(".")
    text = _ARRAY.sub(lambda _: "\\begin{pmatrix}", text)
    for old, new in _REPLACED:
        text = text.replace(old, new)
    text = _TRAILING_TEXT.sub("", text).strip() or text
    if not keep_units:
        text = _UNIT.sub("", text).strip() or text
    for removed in _REMOVED:
        text = text.replace(removed, "")
    text = _TEXT.sub(r"\1", text)
    text = re.sub(r"(?<![a-zA-Z])[xyz](?:=|\\in(?![a-z])|\\to(?![a-z]))", "", text)
    text = text.replace("\\%", "").replace("%", "").replace("\\mathbf", "")
    text = text.replace("\\emptyset", "{}").replace("(-\\infty,\\infty)", "\\mathbb{R}")
    text = re.sub(r"\binfinity\b|(?<!\\)\binf\b", lambda _: "\\infty", text)
    text = re.sub(r"(?:^|(?<=[ {]))\.(?=\d)", "0.", text)
    text = _WHOLE.sub(r"\1", text)
    if "j" in text and "i" not in text:
        text = text.replace("j", "i")
    name, equals, value = text.partition("=")
    if equals and "=" not in value and len(name.strip()) <= 2:
        text = value
    text = _BARE_ROOT.sub(r"\\sqrt{\1}", text).replace(" ", "")
    text = _DIGIT_FRACTION.sub(_braced_fraction, text)
    if slash := _SLASH.fullmatch(text):
        sign = "-" if slash.group(1).startswith("-") else ""
        text = f"{sign}\\frac{{{slash.group(1).removeprefix('-')}}}{{{slash.group(2)}}}"
    return text


def _braced_fraction(found: re.Match[str]) -> str:
    numerator, denominator = (part.strip("{}") for part in found.groups() if part is not None)
    return f"\\frac{{{numerator}}}{{{denominator}}}"
