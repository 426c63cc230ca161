"""Load the prompts of both roles from one directory of template files for each model family.

A directory holds ``generator.txt``, ``predictor.txt`` and ``family.yaml``. A template contains ``{passage}`` or
``{masked_passage}`` exactly once. Every other brace is text, and braces in a passage are not interpreted. The newline
at the end of a template file is not part of the prompt. Prompts are plain completion prompts without a chat template.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import yaml

from megatron_pz.config.yaml_text import load_text
from megatron_pz.runtime.errors import BadInput

TEMPLATES = Path(__file__).parent / "templates"

_GENERATOR_SLOT = "{passage}"
_PREDICTOR_SLOT = "{masked_passage}"
_SETTINGS = {"description", "stop", "quote_words"}


@dataclass(frozen=True)
class PromptFamily:
    """The prompts of a model family, and the strings that end its answers."""

    name: str
    generator_template: tuple[str, str]
    """The prompt before and after the passage."""
    predictor_template: tuple[str, str]
    """The prompt before and after the masked passage."""
    stop: tuple[str, ...]
    """Strings that end a response. The engine must keep them in the response's text, which is incomplete without the
    closing brace. Without any, the model's end-of-text token ends it."""
    quote_words: int
    """Words before the span that an example's answer quotes first: a very short chain of thought; 0: none."""

    @classmethod
    def load(cls, name_or_path: str) -> PromptFamily:
        """Read a family of ``templates/``, or another directory. Raise BadInput if a file is missing or invalid."""
        folder = TEMPLATES / name_or_path
        if name_or_path not in available_families():
            folder = Path(name_or_path)
            if not name_or_path or not folder.is_dir():
                raise BadInput(
                    f"prompt_family {name_or_path!r} is neither a directory nor a family that exists "
                    f"({', '.join(available_families())})"
                )
        settings = _read_settings(folder / "family.yaml")
        return cls(
            name=folder.resolve().name,
            generator_template=_read_template(folder / "generator.txt", _GENERATOR_SLOT),
            predictor_template=_read_template(folder / "predictor.txt", _PREDICTOR_SLOT),
            stop=settings[0],
            quote_words=settings[1],
        )

    def generator_prompt(self, passage: str) -> str:
        """Return the prompt that asks for a mask of the passage."""
        before, after = self.generator_template
        return before + passage + after

    def predictor_prompt(self, masked_text: str) -> str:
        """Return the prompt that asks for the words hidden by ``[mask]``."""
        before, after = self.predictor_template
        return before + masked_text + after


def available_families() -> list[str]:
    """List the families that come with the package, in alphabetical order."""
    return sorted(folder.name for folder in TEMPLATES.iterdir() if (folder / "family.yaml").is_file())


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(
            f"prompt family file {path} cannot be read ({error}); a family is a directory with "
            "generator.txt, predictor.txt and family.yaml, in UTF-8"
        ) from error


def _read_template(path: Path, slot: str) -> tuple[str, str]:
    text = _read(path).removesuffix("\n")
    if text.count(slot) != 1:
        raise BadInput(f"prompt template {path} names {slot} {text.count(slot)} times; it must do so exactly once")
    before, _, after = text.partition(slot)
    return before, after


def _read_settings(path: Path) -> tuple[tuple[str, ...], int]:
    """Return ``stop`` and ``quote_words`` of a family.yaml."""
    try:
        settings = load_text(_read(path))
    except yaml.YAMLError as error:
        raise BadInput(f"{path} is not YAML: {error}") from error
    if not isinstance(settings, dict) or set(settings) != _SETTINGS:
        raise BadInput(f"{path} must have the keys {', '.join(sorted(_SETTINGS))} and no others")
    stop, quote_words = settings["stop"], settings["quote_words"]
    if not isinstance(stop, list) or not all(isinstance(text, str) and text for text in stop):
        raise BadInput(f"stop in {path} is {stop!r}; give a list of non-empty strings, or []")
    if not isinstance(quote_words, str) or not re.fullmatch(r"0|[1-9]\d*", quote_words, re.ASCII):
        raise BadInput(f"quote_words in {path} is {quote_words}; give a whole number in decimal, 0 for none")
    return tuple(stop), int(quote_words)
