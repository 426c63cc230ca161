"""Ask and grade each benchmark as its own authors do, and mathematics as Qwen2.5-Math's evaluation does.

The protocols name their sources. Departures: an MMLU-Pro question that leaves no room for any worked example is asked
alone (the authors' loop continues with other examples); BIG-Bench Extra Hard states no limit on a response, which is
8192 tokens here; AIME 2024 and AMC 2023 are sampled 32 times, at the temperature and top-p that Qwen2.5-Math states for
its samples.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Final

from megatron_pz.question_answering import bbeh, mmlu_pro, qwen_math, supergpqa
from megatron_pz.question_answering.benchmarks import load_examples
from megatron_pz.question_answering.math_comparison import MATH_COMPARISONS
from megatron_pz.question_answering.protocol import Protocol, Tokens
from megatron_pz.question_answering.question import LETTERS, Question
from megatron_pz.runtime.errors import BadInput

NAME: Final = "authors"
SHOTS: Final = 5
"""Worked examples of MMLU-Pro, all of the question's category."""


def protocol(benchmark: str, directory: Path | None) -> Protocol:
    """Return the protocol of a benchmark.

    Raises:
        BadInput: MMLU-Pro's validation file, which has the worked examples, is missing or damaged.
    """
    if benchmark == "mmlu_pro":
        return _mmlu_pro(directory)
    if benchmark == "supergpqa":
        return Protocol(
            NAME,
            benchmark,
            "https://github.com/SuperGPQA/SuperGPQA, zero-shot",
            write=lambda question, tokens: supergpqa.write(question),
            extract=lambda question, response: supergpqa.read(response, question.options),
            graders={"letter": lambda question, answer: answer == question.answer},
            max_tokens=4096,
        )
    if benchmark in ("bbeh", "bbeh_mini"):
        return Protocol(
            NAME,
            benchmark,
            "https://github.com/google-deepmind/bbeh; prompt: arXiv:2502.19187, appendix",
            write=lambda question, tokens: bbeh.write(question),
            extract=lambda question, response: bbeh.extract(response) or None,
            graders={"bbeh": lambda question, answer: bbeh.matches(answer, question.answer)},
            # For the mini set the authors report only the micro average, because its items do not name their tasks.
            headline="harmonic" if benchmark == "bbeh" else "micro",
        )
    sampled = benchmark in ("aime24", "amc23")
    return Protocol(
        NAME,
        benchmark,
        "https://github.com/QwenLM/Qwen2.5-Math, evaluation/, prompt qwen25-math-cot",
        write=lambda question, tokens: qwen_math.write(question),
        extract=lambda question, response: qwen_math.read(response),
        graders={name: MATH_COMPARISONS[name] for name in ("qwen", "math_verify")},
        system=qwen_math.SYSTEM,
        system_in_completion=True,
        stop=qwen_math.STOP,
        max_tokens=2048,
        temperature=0.7 if sampled else 0.0,
        top_p=0.8 if sampled else 1.0,
        samples=32 if sampled else 1,
    )


def _mmlu_pro(directory: Path | None) -> Protocol:
    if directory is None:
        raise BadInput("recipe 'authors' shows worked examples of MMLU-Pro: name the benchmarks' directory")
    examples: dict[str, list[Question]] = defaultdict(list)
    for example in load_examples(directory):
        examples[example.subject].append(example)

    def write(question: Question, tokens: Tokens | None) -> str:
        if len(examples[question.subject]) < SHOTS:
            raise BadInput(
                f"{directory}: MMLU-Pro's validation file has {len(examples[question.subject])} worked examples of "
                f"{question.subject!r}, not {SHOTS}"
            )
        shown = examples[question.subject][:SHOTS]
        text = mmlu_pro.write(question, shown)
        while shown and tokens is not None and tokens(text) >= _MAX_PROMPT_TOKENS:
            shown = shown[:-1]
            text = mmlu_pro.write(question, shown)
        return text

    return Protocol(
        NAME,
        "mmlu_pro",
        "https://github.com/TIGER-AI-Lab/MMLU-Pro, evaluate_from_local.py, 5-shot",
        write=write,
        extract=lambda question, response: mmlu_pro.read(response),
        graders={"letter": lambda question, answer: answer == question.answer},
        guess=lambda question: LETTERS[: len(question.options)],
        chat=False,
        stop=("Question:",),
        max_tokens=2048,
        max_prompt_tokens=_MAX_PROMPT_TOKENS,
    )


_MAX_PROMPT_TOKENS: Final = 2048
"""The authors' context of 4096 tokens less the response's 2048."""
