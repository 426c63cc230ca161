"""Write the prompts of training questions with a template, a file that contains ``{question}`` once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from megatron_pz.question_answering.question import LETTERS, Question
from megatron_pz.runtime.errors import BadInput, brief

TEMPLATES = Path(__file__).parent / "templates"
_SLOT = "{question}"


@dataclass(frozen=True)
class QuestionTemplate:
    """The text before and after a question in its prompt. A template file's last line break is not part of it."""

    before: str
    after: str

    @classmethod
    def load(cls, name_or_path: str) -> QuestionTemplate:
        """Read a template of ``templates/``, or another file. Raise BadInput if it cannot be used."""
        known = sorted(path.stem for path in TEMPLATES.glob("*.txt"))
        path = TEMPLATES / f"{name_or_path}.txt" if name_or_path in known else Path(name_or_path)
        try:
            text = path.read_text(encoding="utf-8").removesuffix("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise BadInput(
                f"--question-template {name_or_path} is none of {', '.join(known)} and no file that can be read: "
                f"{brief(error)}"
            ) from None
        if text.count(_SLOT) != 1:
            raise BadInput(f"--question-template {path} holds {_SLOT} {text.count(_SLOT)} times; it must be there once")
        before, _, after = text.partition(_SLOT)
        return cls(before, after)

    def write(self, question: Question) -> str:
        """Return the prompt; the options follow the question's text, one per line."""
        options = "".join(f"\n({letter}) {text}" for letter, text in zip(LETTERS, question.options, strict=False))
        return f"{self.before}{question.text}{options}{self.after}"
