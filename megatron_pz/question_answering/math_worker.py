"""Compare mathematical answers in a separate process.

``python -m megatron_pz.question_answering.math_worker SECONDS`` reads a request from every line of standard input and
writes the reply to a line of standard output, both JSON. A comparison is aborted after SECONDS of the process's CPU
time, so that the load of the machine does not change a verdict.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Final

from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

from megatron_pz.question_answering.qwen_equality import qwen_equal
from megatron_pz.runtime.errors import brief

MEMORY_BYTES: Final = 4 << 30
"""Address space of the process: an answer such as ``9^{9^{9^9}}`` must not take the machine's memory."""


class OutOfTime(BaseException):
    """A comparison exceeded its CPU time. Not an Exception, so that no ``except Exception`` swallows it."""


def math_verify_equal(gold: str, answer: str) -> bool:
    """Return whether math-verify judges the answer equal to the reference.

    Both are LaTeX without a box. If the answer is a phrase and not LaTeX, the expression in it is used.
    """
    latex = LatexExtractionConfig()
    targets = (ExprExtractionConfig(), latex)
    golds = parse(f"\\boxed{{{_plain(gold)}}}", (latex,), parsing_timeout=0, raise_on_error=True)
    answers = parse(f"\\boxed{{{_plain(answer)}}}", targets, parsing_timeout=0, raise_on_error=True)
    if not answers:
        answers = parse(answer, targets, parsing_timeout=0, raise_on_error=True)
    return bool(verify(golds, answers, timeout_seconds=0))


def _plain(text: str) -> str:
    """Return LaTeX without dollar signs, with ``1.5e3`` as a power of ten, and numbers without following words.

    math-verify reads ``1.5e3`` as a product, multiplies the letters of an unknown unit, and reads no number that ends
    in a point, such as ``18.`` and ``3./2``, or whose digits are grouped by spaces.
    """
    text = _SPACE.sub(" ", text.replace("\\$", "").replace("$", "")).strip()
    text = _POINT.sub("", text)
    text = _GROUPED.sub(lambda found: found.group().replace(" ", ""), text)
    if whole := _TEXT.fullmatch(text):
        text = whole.group(1).strip()
    if counted := _COUNTED.fullmatch(text):
        text = counted.group(1)
    return _EXPONENT.sub(r"\1\\times 10^{\2}", text)


_SPACE: Final = re.compile(r"~|(?<!\\)\\[,;: ]")
"""Spaces of LaTeX."""
_POINT: Final = re.compile(r"(?<=\d)\.(?=\s*[/,;)\]}])|(?<!\.)\.\s*$")
_GROUPED: Final = re.compile(r"(?<![\w.,])\d{1,3}(?: \d{3})+(?![\d,])")
_TEXT: Final = re.compile(r"\\(?:text|mathrm|mbox)\{((?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*)\}")
"""Text whose braces nest two more levels."""
_COUNTED: Final = re.compile(r"(-?\d[\d,]*+(?:\.\d++)?(?:[eE][+-]?\d++)?) ?(?:[A-Za-z]{2,}+[ .]*+)++")
_EXPONENT: Final = re.compile(r"(?<![\w.\\])(\d+(?:\.\d+)?)[eE]([+-]?\d+)(?![\w.])")

GRADERS: Final[dict[str, Callable[[str, str], bool]]] = {"math_verify": math_verify_equal, "qwen": qwen_equal}
"""Equality of a reference and an answer, by the grader's name."""


def main() -> None:
    """Answer requests ``{"grader", "gold", "answer"}`` with ``{"equal"}`` or ``{"error"}`` until the input ends."""
    logging.disable()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole process group; the parent ends this process
    signal.signal(signal.SIGPROF, _out_of_time)
    sys.setrecursionlimit(10_000)
    replies, sys.stdout = sys.stdout, sys.stderr
    cpu_seconds = float(sys.argv[1])
    for line in sys.stdin:
        print(json.dumps(reply(json.loads(line), cpu_seconds)), file=replies, flush=True)


def reply(request: dict[str, str], cpu_seconds: float) -> dict[str, object]:
    """Return the reply to one request, which reports any exception of the comparison."""
    try:
        with _limited(cpu_seconds):
            return {"equal": GRADERS[request["grader"]](request["gold"], request["answer"])}
    except OutOfTime:
        return {"error": f"not compared within {cpu_seconds:g} s of CPU time"}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {brief(error, 200)}"}


@contextlib.contextmanager
def _limited(cpu_seconds: float) -> Iterator[None]:
    # The alarm repeats, because the code below may swallow the first one.
    signal.setitimer(signal.ITIMER_PROF, cpu_seconds, 0.5)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _out_of_time(number: int, frame: FrameType | None) -> None:
    raise OutOfTime


if __name__ == "__main__":
    main()
