"""Build a checked ``RunConfig`` from a YAML file and flags, and refuse bad input in one clear line.

``python -m megatron_pz.config.parse --config FILE [--flags]`` checks a configuration in about a second, without torch.
Launchers call it before they start processes, so that a mistyped flag is reported once and not by every rank.
With ``--get SECTION.FIELD`` it prints the resolved value of one field instead, for use in shell scripts.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import io
import logging
import re
import reprlib
import sys
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, cast

import tyro
import yaml
from pydantic import TypeAdapter, ValidationError

from megatron_pz.config.command_line import Parser
from megatron_pz.config.precision import with_precision
from megatron_pz.config.schema import RunConfig
from megatron_pz.config.validate import check
from megatron_pz.config.validate_ranges import field_types, flag
from megatron_pz.config.yaml_text import field_value, load_text
from megatron_pz.runtime.errors import BadInput, exits_with_one_line, one_line

logger = logging.getLogger(__name__)

_SECTIONS = {section.name: section.default_factory for section in dataclasses.fields(RunConfig)}
_SHOWN = reprlib.Repr()
_SHOWN.maxlevel, _SHOWN.maxstring, _SHOWN.maxother = 2, 120, 120
_MOVED_KEYS = {("parallel", "moe_aux_loss_coeff"): "model"}
"""The present section of every key that a YAML file of an earlier version has in another section."""

_shown = _SHOWN.repr
"""Represents a wrong value in a message; a large value is truncated to its beginning and outer levels."""


def parse_run_config(argv: Sequence[str], program: str) -> RunConfig:
    """Read ``--config FILE``, override it by the other flags, and check the result.

    Raises:
        BadInput: an unknown key or flag, a value of the wrong type, an impossible combination, a path that is missing.
    """
    config = read_run_config(argv, program)
    check(config)
    return config


def read_run_config(argv: Sequence[str], program: str) -> RunConfig:
    """Read the configuration as :func:`parse_run_config` does, but without the checks across fields.

    Tools that need only a part of the configuration use this."""
    own = Parser("", add_help=False)
    own.add_argument("--config", type=Path)
    known, flags = own.parse_known_args(list(argv))
    from_file = load_yaml(known.config) if known.config else RunConfig()
    if "-h" in flags or "--help" in flags:
        print("--config FILE   a YAML file with the sections below; flags override it")
        print("[P]: the paper says so; [C]: the paper is silent, and this is our choice\n")
    return _named_precision(_parse_flags(flags, program, from_file), flags)


def _named_precision(config: RunConfig, flags: Sequence[str]) -> RunConfig:
    """Expand a named precision into its dtypes. Flags that name a dtype override the file's ``precision``.

    Raises:
        BadInput: the flags name both.
    """
    given = {word.partition("=")[0].replace("_", "-") for word in flags}
    named = sorted(given & {"--bf16", "--no-bf16", "--rollout-dtype"})
    if named and "--precision" in given:
        raise BadInput(f"--precision and {named[0]} both name the precision: give one of them")
    if named:
        return dataclasses.replace(config, model=dataclasses.replace(config.model, precision="custom"))
    if config.model.precision in ("bf16", "fp32"):
        return with_precision(config, config.model.precision)
    return config


def load_yaml(path: Path) -> RunConfig:
    """Read a :class:`RunConfig` from a YAML file whose top-level keys are its sections.

    Raises:
        BadInput: as :func:`parse_run_config` does for a file.
    """
    return config_of_sections(path, read_yaml_text(path))


def read_yaml_text(path: Path) -> Any:
    """Read a YAML file with every scalar as text; an empty file is an empty mapping.

    Raises:
        BadInput: the file cannot be read, or is not YAML.
    """
    try:
        content = load_text(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput(f"configuration file {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadInput(f"configuration file {path} cannot be read as YAML: {one_line(error)}") from None
    return {} if content is None else content


def config_of_sections(path: Path, content: Any) -> RunConfig:
    """Build a :class:`RunConfig` from the result of :func:`read_yaml_text`; errors name the file by ``path``.

    Raises:
        BadInput: an unknown section or key, or a value of the wrong type.
    """
    if not isinstance(content, dict):
        raise BadInput(f"configuration file {path}: expected sections ({', '.join(_SECTIONS)}), got {_shown(content)}")
    sections = {}
    for name, values in _with_moved_keys(path, content).items():
        if name not in _SECTIONS:
            raise BadInput(f"configuration file {path}: unknown section {name!r}{_nearest(name, _SECTIONS)}")
        sections[name] = _section(path, name, {} if values is None else values)
    return RunConfig(**sections)


def _with_moved_keys(path: Path, content: dict[str, Any]) -> dict[str, Any]:
    """Return the sections with keys of earlier versions moved to their present place; warn about each."""
    sections = {name: dict(values) if isinstance(values, dict) else values for name, values in content.items()}
    for (section, key), home in _MOVED_KEYS.items():
        values = sections.get(section)
        if isinstance(values, dict) and key in values:
            logger.warning(f"configuration file {path}: {section}.{key} is {home}.{key} now; move it")
            target = sections.get(home)
            if target is None:
                target = sections[home] = {}
            if not isinstance(target, dict) or key in target:
                continue
            target[key] = values.pop(key)
    return sections


@cache
def _validator(kind: type) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _section(path: Path, name: str, values: Any) -> Any:
    kind: Any = _SECTIONS[name]
    if not isinstance(values, dict):
        raise BadInput(f"configuration file {path}: section {name!r} must hold key: value lines, got {_shown(values)}")
    types = field_types(kind)
    read = {}
    for key, value in values.items():
        if key not in types:
            raise BadInput(f"configuration file {path}: unknown key {name}.{key}{_nearest(key, types)}")
        try:
            read[key] = field_value(value, types[key])
        except ValueError as error:
            raise BadInput(f"configuration file {path}: {name}.{key} = {error}") from None
    try:
        return _validator(kind).validate_python(read)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        said = first["msg"].replace("valid tuple", "list")
        raise BadInput(f"configuration file {path}: {name}.{where} = {_shown(first['input'])}: {said}") from None


def _nearest(word: Any, known: Iterable[str]) -> str:
    """Suggest the meaning of an unknown ``word``: a key of another section, or one of the ``known`` words."""
    for section, kind in _SECTIONS.items():
        if word in (field.name for field in dataclasses.fields(cast(Any, kind))):
            return f" (it belongs to the section {section!r})"
    close = difflib.get_close_matches(str(word), list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else f" (known: {', '.join(known)})"


def _parse_flags(flags: list[str], program: str, default: RunConfig) -> RunConfig:
    if "-h" in flags or "--help" in flags:
        return tyro.cli(RunConfig, prog=program, args=flags, default=default, config=(tyro.conf.OmitArgPrefixes,))
    named = _named_fields(flags, default)
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            given: Any = tyro.cli(dataclasses.make_dataclass("Flags", named), prog=program, args=flags)
    except SystemExit:
        complaint = _first_paragraph(said.getvalue())
        raise BadInput(f"{complaint}{_meant(complaint)} (--help lists the flags)") from None
    sections = {}
    for name in _SECTIONS:
        section = getattr(default, name)
        values = {
            field.name: getattr(given, field.name)
            for field in dataclasses.fields(section)
            if hasattr(given, field.name)
        }
        sections[name] = dataclasses.replace(section, **values)
    return dataclasses.replace(default, **sections)


def _named_fields(flags: Sequence[str], default: RunConfig) -> list[tuple[str, Any, Any]]:
    """Return (name, type, present value) of each field in ``flags``; a parser for all fields takes 50 ms to build."""
    words = {word.partition("=")[0].replace("_", "-") for word in flags}
    found = []
    for name, kind in _SECTIONS.items():
        types = field_types(kind, include_extras=True)
        for field in dataclasses.fields(cast(Any, kind)):
            if words & {flag(field.name), flag(f"no_{field.name}")}:
                value = dataclasses.field(default=getattr(getattr(default, name), field.name))
                found.append((field.name, types[field.name], value))
    return found


def _meant(complaint: str) -> str:
    """Suggest a replacement for the first word that tyro does not know; return an empty string for other errors."""
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
    """Extract tyro's message, without its title, its frame and the help below."""
    lines: list[str] = []
    for line in boxed.splitlines()[1:]:
        text = line.strip("│╰╯|+ ")
        if not re.fullmatch(r"[─-]*", text):
            lines.append(text)
        elif lines:
            break
    return " ".join(lines)


def field_text(config: RunConfig, name: str) -> str:
    """Return the value of ``section.field`` in the form of a flag; the entries of a list are separated by spaces.

    Raises:
        BadInput: there is no such section or field.
    """
    section, _, field = name.partition(".")
    if section not in _SECTIONS:
        raise BadInput(f"--get {name}: give SECTION.FIELD, as in training.save{_nearest(section, _SECTIONS)}")
    types = field_types(_SECTIONS[section])
    if field not in types:
        raise BadInput(f"--get {name}: unknown key{_nearest(field, types)}")
    value = getattr(getattr(config, section), field)
    if isinstance(value, bool):
        return str(value).lower()
    return " ".join(value) if isinstance(value, tuple) else str(value)


@exits_with_one_line
def main() -> None:
    """Check the configuration that a run with the same flags would use, or print one field of it."""
    own = Parser("", add_help=False)
    own.add_argument("--get")
    known, flags = own.parse_known_args(sys.argv[1:])
    if known.get is None:
        parse_run_config(flags, "megatron_pz.train")
    else:
        print(field_text(read_run_config(flags, "megatron_pz.train"), known.get))


if __name__ == "__main__":
    main()
