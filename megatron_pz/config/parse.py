"""From a YAML file and flags to a checked ``RunConfig``; anything wrong is one clear line.

``python -m megatron_pz.config.parse --config FILE [--flags]`` only checks, in about a second and without torch.
Launchers run it before they start processes, so that a mistyped flag is reported once and not by every rank.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import io
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, cast

import tyro
import yaml
from pydantic import TypeAdapter, ValidationError

from megatron_pz.config.command_line import Parser
from megatron_pz.config.schema import RunConfig
from megatron_pz.config.validate import check
from megatron_pz.config.validate_parallel import flag
from megatron_pz.runtime.errors import BadInput, exits_with_one_line

_SECTIONS = {section.name: section.default_factory for section in dataclasses.fields(RunConfig)}
_LISTS = ("data_path", "valid_data_path")
"""Fields that a YAML file may also give as one line of text, as a flag does."""


def parse_run_config(argv: Sequence[str], program: str) -> RunConfig:
    """Read ``--config FILE``, lay the other flags over it, check the whole.

    Raises:
        BadInput: an unknown key or flag, a value of the wrong type, an impossible combination, a path that is missing.
    """
    config = read_run_config(argv, program)
    check(config)
    return config


def read_run_config(argv: Sequence[str], program: str) -> RunConfig:
    """:func:`parse_run_config` without the checks across fields, for tools that need a part of the configuration."""
    own = Parser("", add_help=False)
    own.add_argument("--config", type=Path)
    known, flags = own.parse_known_args(list(argv))
    from_file = load_yaml(known.config) if known.config else RunConfig()
    if "-h" in flags or "--help" in flags:
        print("--config FILE   a YAML file with the sections below; flags override it")
        print("[P]: the paper says so; [C]: the paper is silent, and this is our choice\n")
    return _parse_flags(flags, program, from_file)


def load_yaml(path: Path) -> RunConfig:
    """A :class:`RunConfig` from a YAML file whose top-level keys are its sections."""
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except OSError as error:
        raise BadInput(f"configuration file {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadInput(f"configuration file {path} cannot be read as YAML: {error}") from None
    content = {} if content is None else content
    if not isinstance(content, dict):
        raise BadInput(f"configuration file {path}: expected sections ({', '.join(_SECTIONS)}), got {content!r}")
    sections = {}
    for name, values in content.items():
        if name not in _SECTIONS:
            raise BadInput(f"configuration file {path}: unknown section {name!r}{_nearest(name, _SECTIONS)}")
        sections[name] = _section(path, name, {} if values is None else values)
    return RunConfig(**sections)


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice in one section, of which YAML would silently take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in keys:
                raise yaml.constructor.ConstructorError(
                    problem=f"the key {key.value!r} stands twice", problem_mark=key.start_mark
                )
            keys.add(key.value)
        return super().construct_mapping(node, deep)


def _section(path: Path, name: str, values: Any) -> Any:
    kind: Any = _SECTIONS[name]
    if not isinstance(values, dict):
        raise BadInput(f"configuration file {path}: section {name!r} must hold key: value lines, got {values!r}")
    types = {field.name: field.type for field in dataclasses.fields(kind)}
    for key, value in values.items():
        if key not in types:
            raise BadInput(f"configuration file {path}: unknown key {name}.{key}{_nearest(key, types)}")
        if isinstance(value, bool) and types[key] in ("int", "float"):  # else true would count as 1
            raise BadInput(f"configuration file {path}: {name}.{key} = {str(value).lower()}: give a number")
    values = {
        key: value.split() if key in _LISTS and isinstance(value, str) else value for key, value in values.items()
    }
    try:
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        said = first["msg"].replace("valid tuple", "list")
        raise BadInput(f"configuration file {path}: {name}.{where} = {first['input']!r}: {said}") from None


def _nearest(word: Any, known: Iterable[str]) -> str:
    """What the unknown ``word`` may have been meant for: a key of another section, or one of the ``known``."""
    for section, kind in _SECTIONS.items():
        if word in (field.name for field in dataclasses.fields(cast(Any, kind))):
            return f" (it belongs to the section {section!r})"
    close = difflib.get_close_matches(str(word), list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else f" (known: {', '.join(known)})"


def _parse_flags(flags: list[str], program: str, default: RunConfig) -> RunConfig:
    if "-h" in flags or "--help" in flags:
        return tyro.cli(RunConfig, prog=program, args=flags, default=default, config=(tyro.conf.OmitArgPrefixes,))
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            return tyro.cli(RunConfig, prog=program, args=flags, default=default, config=(tyro.conf.OmitArgPrefixes,))
    except SystemExit:
        complaint = _first_paragraph(said.getvalue())
        raise BadInput(f"{complaint}{_meant(complaint)} (--help lists the flags)") from None


def _meant(complaint: str) -> str:
    """What to do about the first thing that tyro does not know; nothing where the complaint is another."""
    found = re.match(r"Unrecognized options: ([^, ]+)", complaint)
    word = found[1] if found else ""
    if word.endswith((".yaml", ".yml")):
        return ": give a configuration file as --config FILE"
    if word.lower() in ("true", "false"):
        return ": switches take no value, as in --bf16 and --no-bf16"
    if word.startswith("--"):
        fields = (field.name for kind in _SECTIONS.values() for field in dataclasses.fields(cast(Any, kind)))
        close = difflib.get_close_matches(word.partition("=")[0], [flag(name) for name in fields], n=1)
        return f": did you mean {close[0]}?" if close else ""
    return ""


def _first_paragraph(boxed: str) -> str:
    """tyro's message without its title, the frame that it draws around it and the help behind its rule."""
    lines: list[str] = []
    for line in boxed.splitlines()[1:]:
        text = line.strip("│╰╯|+ ")
        if not re.fullmatch(r"[─-]*", text):
            lines.append(text)
        elif lines:
            break
    return " ".join(lines)


@exits_with_one_line
def main() -> None:
    """Check the configuration that the same flags would start a run with."""
    parse_run_config(sys.argv[1:], "megatron_pz.train")


if __name__ == "__main__":
    main()
