"""Prepare benchmarks for one model: choose the questions, and write and encode their prompts."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from megatron_pz.question_answering.benchmarks import load_benchmark
from megatron_pz.question_answering.protocol import Protocol
from megatron_pz.question_answering.question import Question
from megatron_pz.question_answering.recipes import recipe
from megatron_pz.runtime.errors import BadInput, one_line

PromptFormat = Literal["recipe", "chat", "plain"]
"""The recipe's own choice, the model's chat template, or a plain completion."""


@dataclass(frozen=True)
class BenchmarkSettings:
    """Choices of a benchmark evaluation that hold for every model and set."""

    recipe: str
    prompt_format: PromptFormat = "recipe"
    questions: int = 0
    """Maximum number of questions of each set; 0: all."""
    max_tokens: int = 0
    """Upper bound on the recipe's maximum number of response tokens; 0: no further bound."""
    seed: int = 11
    """Decides the slice of questions, the samples and the guesses."""
    responses_per_part: int = 128
    """Number of responses that an engine samples in one call and that are written together."""


@dataclass(frozen=True)
class Prompt:
    """The text that a model continues, with its token ids."""

    text: str
    token_ids: tuple[int, ...]


@dataclass(frozen=True)
class LoadedBenchmark:
    """A benchmark as it is asked of every model."""

    protocol: Protocol
    questions: tuple[Question, ...]
    of: int
    """Questions in the whole set."""


@dataclass(frozen=True)
class PreparedBenchmark:
    """The questions of one benchmark, with their prompts for one model."""

    protocol: Protocol
    questions: tuple[Question, ...]
    of: int
    """Questions in the whole set."""
    chat: bool
    """The prompts are made by the model's chat template."""
    max_tokens: int
    """Maximum number of tokens of a response; the engine's context may end it earlier."""
    prompts: tuple[Prompt, ...]

    @property
    def name(self) -> str:
        """Return the benchmark's name."""
        return self.protocol.benchmark

    def longest(self) -> int:
        """Return the number of tokens of the longest prompt plus the longest response."""
        return max(len(prompt.token_ids) for prompt in self.prompts) + self.max_tokens


class BenchmarkTokenizer:
    """A model's tokenizer as benchmarks use it: control tokens in a prompt are control tokens."""

    def __init__(self, directory: str | Path) -> None:
        """Open the tokenizer. Raise :class:`BadInput` if transformers cannot."""
        self.directory = directory
        try:
            self.tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(directory)
        except (OSError, ValueError) as error:
            raise BadInput(f"no tokenizer in {directory}: {one_line(error)}") from None

    def prompt(self, protocol: Protocol, question: Question, chat: bool) -> Prompt:
        """Write and encode the prompt of a question. A plain completion begins as the tokenizer begins any text.

        Raises:
            BadInput: a chat is requested, but the tokenizer has no chat template, or one that fails or leaves the
                question out.
        """
        if not chat:
            text = protocol.completion(question, self._tokens)
            return Prompt(text, tuple(self.tokenizer.encode(text)))
        if self.tokenizer.chat_template is None:
            raise BadInput(
                f"{self.directory}: the tokenizer has no chat template, which recipe {protocol.recipe} or "
                "--prompt-format chat asks for; use --prompt-format plain, or a model with one"
            )
        messages = protocol.messages(question, self._tokens)
        try:
            text = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        except Exception as error:  # a template may compute anything
            raise BadInput(f"{self.directory}: the chat template refuses the prompt: {one_line(error)}") from None
        if messages[-1]["content"].strip() not in text:
            raise BadInput(
                f"{self.directory}: the chat template does not show the user's text; use --prompt-format plain"
            )
        return Prompt(text, tuple(self.tokenizer.encode(text, add_special_tokens=False)))

    def _tokens(self, text: str) -> int:
        return len(self.tokenizer.encode(text))


def load_questions(names: Sequence[str], directory: Path, settings: BenchmarkSettings) -> list[LoadedBenchmark]:
    """Read benchmarks as a whole, or a slice of each.

    A slice is chosen by hashes of the questions' identifiers and the seed, and keeps the order of the file.

    Raises:
        BadInput: an unknown recipe or benchmark, a name given twice, or files that cannot be used.
    """
    if len(set(names)) < len(names):
        raise BadInput(f"--benchmarks {','.join(names)}: name each set once")
    chosen = recipe(settings.recipe)
    loaded = []
    for name in names:
        protocol = chosen.protocol(name, directory)
        everything = load_benchmark(name, directory)
        drawn = sorted(everything, key=lambda each: _rank(each, settings.seed))[: settings.questions or None]
        kept = {each.id for each in drawn}
        questions = tuple(each for each in everything if each.id in kept)
        loaded.append(LoadedBenchmark(protocol, questions, len(everything)))
    return loaded


def prepare(
    loaded: Sequence[LoadedBenchmark], tokenizer: BenchmarkTokenizer, settings: BenchmarkSettings
) -> list[PreparedBenchmark]:
    """Write the prompts of loaded benchmarks for one model. Raises :class:`BadInput` as the tokenizer does."""
    prepared = []
    for each in loaded:
        protocol = each.protocol
        chat = protocol.chat if settings.prompt_format == "recipe" else settings.prompt_format == "chat"
        limit = min(protocol.max_tokens, settings.max_tokens or protocol.max_tokens)
        prompts = tuple(tokenizer.prompt(protocol, question, chat) for question in each.questions)
        prepared.append(PreparedBenchmark(protocol, each.questions, each.of, chat, limit, prompts))
    return prepared


def _rank(question: Question, seed: int) -> str:
    return hashlib.sha256(f"{seed} {question.benchmark} {question.id}".encode()).hexdigest()
