"""Expand the wikitext of a template's page as MediaWiki does: parameters with defaults and parser functions."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final

from megatron_pz.wikitext import templates
from megatron_pz.wikitext.marks import MARKS
from megatron_pz.wikitext.templates import expressions

_PLAIN_VALUE = re.compile(r"[^\[\]{}<>'|=&_\n\x00-\x1f#*:;]*")
_NUMBER = re.compile(r"[-+]?(?:\d{1,15}\.?\d{0,15}|\.\d{1,15})", re.ASCII)
_FIRST_PLACEHOLDER: Final = 0xF0000
PLACEHOLDER = re.compile("[\U000f0000-\U000ffffd]")
_VARIABLES: Final = frozenset(["pagename", "fullpagename", "basepagename", "subpagename"])
_NO_NAMESPACE: Final = frozenset(["namespace", "articlespace", "subjectspace", "ns:0", "ns:"])
"""Variables that are empty on an article."""
_CHANGED_CASE = re.compile(r"\{\{\s*(lc|uc|lcfirst|ucfirst):([^{}|]*)\}\}", re.IGNORECASE)
_SILENT_FUNCTIONS: Final = ("#tag:ref", "defaultsort:", "displaytitle:", "#related:", "#seo:")


class NotUnderstood(Exception):
    """A template needs a feature that is not supported."""


def with_values(text: str, values: list[str]) -> str:
    """Put the values in the place of their placeholders."""
    return PLACEHOLDER.sub(lambda sign: values[ord(sign[0]) - _FIRST_PLACEHOLDER], text)


class Expansion:
    """Expands one call of a template.

    A placeholder in the wikitext stands for a value with markup, so that the value is not parsed a second time.
    """

    def __init__(self, parameters: Mapping[str, str], values: list[str], title: str) -> None:
        self._parameters, self._values, self._title = parameters, values, title

    def text(self, body: str) -> str:
        """Replace the body's parameters and parser functions. Raise :class:`NotUnderstood` for unsupported ones."""
        out: list[str] = []
        index = 0
        while (begin := body.find("{{", index)) >= 0:
            out.append(body[index:begin])
            braces, end = balanced(body, begin)
            fields = list(_fields(body[begin + braces : end - braces]))
            out.append(self._parameter(fields) if braces == 3 else self._call(fields))
            index = end
        return "".join(out) + body[index:]

    def _parameter(self, fields: list[str]) -> str:
        name = self._decoded(fields[0])
        value = self._parameters.get(name)
        if value is None:  # without a default, MediaWiki shows the parameter as it is written
            return self.text(fields[1]) if len(fields) > 1 else f"{{{{{{{name}}}}}}}"
        if _PLAIN_VALUE.fullmatch(value):
            return value
        self._values.append(value)
        return chr(_FIRST_PLACEHOLDER + len(self._values) - 1)

    def _decoded(self, text: str) -> str:
        """Return a text that is compared. Raise :class:`NotUnderstood` if a template's text is a part of it."""
        expanded = _CHANGED_CASE.sub(self._in_case, self.text(text))
        if "{{" in expanded.replace("{{{", ""):
            raise NotUnderstood(expanded)
        return MARKS.sub("", with_values(expanded, self._values)).strip()

    def _in_case(self, call: re.Match[str]) -> str:
        return templates.PARSER_FUNCTIONS[call[1].lower()](with_values(call[2], self._values).strip())

    def _branch(self, fields: list[str], number: int) -> str:
        return self.text(fields[number]).strip() if number < len(fields) else ""

    def _call(self, fields: list[str]) -> str:
        head = fields[0].strip()
        function = head.casefold()
        if function in _VARIABLES:
            return self._title
        if function in _NO_NAMESPACE or function.startswith(_SILENT_FUNCTIONS):
            return ""
        if not function.startswith("#"):
            return "{{" + "|".join(self.text(field) for field in fields) + "}}"
        name, _, condition = head.partition(":")
        name = name.casefold()
        if name == "#if":
            return self._branch(fields, 1 if self._decoded(condition) else 2)
        if name == "#ifeq":
            return self._branch(fields, 2 if _is_same(self._decoded(condition), self._decoded(fields[1])) else 3)
        if name == "#ifexist":  # both branches of a link helper show the label
            return self._branch(fields, 1)
        if name == "#switch":
            return self._switch(self._decoded(condition), fields[1:])
        if name in ("#expr", "#ifexpr") and (value := expressions.value_of(self._decoded(condition))):
            return value if name == "#expr" else self._branch(fields, 2 if value == "0" else 1)
        raise NotUnderstood(name)

    def _switch(self, value: str, cases: list[str]) -> str:
        found = False
        default = ""
        for number, case in enumerate(cases):
            name, equals, result = case.partition("=")
            if not equals:
                found = found or _is_same(self._decoded(name), value)
                if number == len(cases) - 1:
                    default = name
                continue
            if found or _is_same(self._decoded(name), value):
                return self.text(result).strip()
            if name.strip().casefold() == "#default":
                default = result
        return self.text(default).strip()


def _is_same(text: str, other: str) -> bool:
    """Return whether two texts are equal for MediaWiki, which compares numbers by value."""
    return text == other or bool(_NUMBER.fullmatch(text) and _NUMBER.fullmatch(other) and float(text) == float(other))


def balanced(text: str, begin: int) -> tuple[int, int]:
    """Return (number of braces of the construct at ``begin``, its end). Raise :class:`NotUnderstood` without an end."""
    opened: list[int] = []
    index, first = begin, 0
    while index < len(text):
        sign = text[index]
        if sign not in "{}":
            index += 1
            continue
        end = index
        while end < len(text) and text[end] == sign:
            end += 1
        run = end - index
        while run >= 2:
            if sign == "{":
                opened.append(3 if run == 3 else 2)
                first = first or opened[0]
                run -= opened[-1]
            elif run >= opened[-1]:
                run -= opened.pop()
                if not opened:
                    return first, end - run
            else:
                break
        index = end
    raise NotUnderstood("a brace without its partner")


def _fields(content: str) -> Iterator[str]:
    """Yield the parts between bars, ignoring bars in inner templates and links.

    Raise :class:`NotUnderstood` if an inner template has no end.
    """
    start = links = index = 0
    while index < len(content):
        pair = content[index : index + 2]
        if pair == "{{":
            index = balanced(content, index)[1]
            continue
        if pair in ("[[", "]]"):
            links = links + 1 if pair == "[[" else max(links - 1, 0)
            index += 2
            continue
        if pair[0] == "|" and links == 0:
            yield content[start:index]
            start = index + 1
        index += 1
    yield content[start:]
