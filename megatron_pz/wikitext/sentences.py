"""Where sentences end. Prudent: where it is not sure, two sentences stay together."""

from __future__ import annotations

import re

_END = re.compile(
    r"[.!?…。！？｡।؟۔\n]"  # first of all one of these: the search skips to it
    r"(?:(?<=[.!?…])(?<![.!?…]{2})[.!?…]*+[\"'”’»)\]]*+\s+"  # white space must follow
    r"|(?<=[。！？｡।؟۔])[。！？｡।؟۔]*+[」』）”’]*+\s*"  # scripts that need none
    r"|(?<=\n)\s*)"
)
_LAST_WORD = re.compile(r"[\w.’'-]+$")
_LONGEST_WORD = 16

_NEVER_LAST = frozenset(
    "mr mrs ms dr prof st sr jr rev hon gen col lt capt sgt maj cmdr adm gov sen rep pres messrs mt ft vs cf e.g i.e "
    "viz al etc inc ltd co corp bros dept univ assn esp incl jan feb mar apr jun jul aug sept sep oct nov dec ed eds "
    "trans transl repr approx ca c b d r fl u.s u.k u.n bzw z.b d.h u.a usw nr bd hrsg sog vgl geb "
    "gest mme mlle".split()
)
_BEFORE_A_NUMBER = frozenset("no nos vol vols pp p fig figs ch chap sec art op ver".split())


def sentences(paragraph: str, language: str = "") -> list[str]:
    """Cut a paragraph into sentences, each with the white space after it: joined, they are the paragraph.

    Args:
        paragraph: Text without markup.
        language: Code of its language as the wiki names it (``de``, ``zh-yue``); empty where it is not known.
    """
    found: list[str] = []
    start = 0
    for end in _END.finditer(paragraph):
        if end.end() < len(paragraph) and _ends_sentence(paragraph, start, end):
            found.append(paragraph[start : end.end()])
            start = end.end()
    if start < len(paragraph):
        found.append(paragraph[start:])
    return found


def _ends_sentence(paragraph: str, start: int, end: re.Match[str]) -> bool:
    mark = end[0].rstrip()
    if not mark or mark[0] not in ".…!?":
        return True
    following = paragraph[end.end()]
    if following.islower() or following in ",;:)]–—-":
        return False
    if mark != ".":
        return True
    word = _LAST_WORD.search(paragraph, max(start, end.start() - _LONGEST_WORD), end.start())
    if word is None:
        return True
    last = word[0].strip("'’-")
    initial = len(last) == 1 and last.isupper()
    last = last.casefold()
    if initial or last in _NEVER_LAST or ("." in last and not last.replace(".", "").isdigit()):
        return False
    return not (last in _BEFORE_A_NUMBER and following.isdigit())
