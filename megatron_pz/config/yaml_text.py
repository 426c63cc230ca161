"""Read a YAML file without YAML 1.1's type guesses: a value stays text until the type of its field is known.

YAML 1.1, which PyYAML implements, takes ``off`` and ``no`` for booleans, ``0123`` for octal 83, ``12:30:45`` for a
number in base 60 and ``2026-11-29`` for a date, regardless of the field's type.
"""

from __future__ import annotations

import re
from typing import Any, get_origin

import yaml

_SWITCHES = ("true", "false", "yes", "no", "on", "off")
_OTHER_BASE = re.compile(r"[+-]?0[0-9_xXoObB]")
"""The start of 0123, 0o17, 0x1F or 0b11."""


class BlockText(str):
    """The text of a block scalar. It ends in a line break that YAML requires and that is not part of the value."""


class _TextLoader(yaml.SafeLoader):
    """Constructs every scalar as text and refuses duplicate keys, of which YAML would take the last."""

    yaml_implicit_resolvers = {}  # noqa: RUF012 (PyYAML's own attribute)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in keys:
                raise yaml.constructor.ConstructorError(
                    problem=f"the key {key.value!r} occurs twice", problem_mark=key.start_mark
                )
            keys.add(key.value)
        return super().construct_mapping(node, deep)

    def construct_text(self, node: yaml.ScalarNode) -> str:
        """Return a scalar's text as it was written."""
        text = str(self.construct_scalar(node))
        return BlockText(text) if node.style in ("|", ">") else text


_TextLoader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""])
_TextLoader.add_implicit_resolver("tag:yaml.org,2002:merge", re.compile(r"<<$"), ["<"])
for _kind in ("str", "bool", "int", "float", "timestamp"):  # types other than str occur only with a tag, as in !!int 7
    _TextLoader.add_constructor(f"tag:yaml.org,2002:{_kind}", _TextLoader.construct_text)


def load_text(text: str) -> Any:
    """Return the content of a YAML document: mappings, lists, ``str`` for every scalar and None for ``null``.

    Raises:
        yaml.YAMLError: the text is not YAML, or a key is given twice.
    """
    try:
        return yaml.load(text, _TextLoader)
    except RecursionError:
        raise yaml.YAMLError("it is nested too deeply") from None


def field_value(value: Any, kind: Any) -> Any:
    """Convert ``value``, a result of :func:`load_text`, for a field of the type ``kind``.

    A text field takes the text as it was written. A list may be one line of text, in the form of a flag. ``null`` is
    the empty text or the empty list. Numbers are decimal; the field's type refuses text that is not a number. The line
    break at the end of a block scalar is not part of the value.

    Raises:
        ValueError: the message names the value and what to write instead.
    """
    if get_origin(kind) is tuple:
        return _entries(value)
    value = _without_last_break(value)
    if kind is str:
        return "" if value is None else value
    if value is None:
        raise ValueError("null: give a value, or leave the line out")
    if kind in (int, float) and isinstance(value, str):
        if value.lower() in _SWITCHES:
            raise ValueError(f"{value}: give a number")
        if _OTHER_BASE.match(value):
            raise ValueError(f"{value}: write the number in decimal, without leading zeros")
        # PyYAML writes infinity and NaN in YAML's form, which Python does not read.
        return re.sub(r"^([+-]?)\.(inf|nan)$", r"\1\2", value, flags=re.IGNORECASE)
    return value


def _entries(value: Any) -> Any:
    if value is None:
        return []
    if isinstance(value, str):
        if "\n" in value and not isinstance(value, BlockText):
            raise ValueError(f"{value!r}: holds a line break; give a list of texts, as in [a, b]")
        return value.split()
    if not isinstance(value, list):
        return value
    if None in value:
        raise ValueError("null in a list: give text, in quotes if it is meant as text")
    return [_without_last_break(entry) for entry in value]


def _without_last_break(value: Any) -> Any:
    return value.rstrip("\n") if isinstance(value, BlockText) else value
