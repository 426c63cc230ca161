"""Settings of reinforcement learning with verifiable rewards: questions, answers and graders.

"[P]" marks a value that the PretrainZero paper states, "[G]" one of General-Reasoner (arXiv 2505.14652 and its
published training script), whose recipe the paper follows after pretraining, "[C]" a choice of ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Le

from megatron_pz.config.field_types import NonNegativeFloat, PositiveFloat, PositiveInt

GraderName = Literal["letter", "exact", "number", "math", "reasoning_gym", "verifier"]


@dataclass(frozen=True)
class QuestionConfig:
    """Question answering (``python -m megatron_pz.rlvr``). Group size and dynamic sampling are those of ``game``."""

    question_path: tuple[str, ...] = ()
    """JSON Lines, JSON or Parquet files with the training questions."""
    valid_question_path: tuple[str, ...] = ()
    """Files with the held-out questions, asked every eval_interval steps. A training question with the text of
    one that is asked is never drawn."""
    question_field: str = "question"
    """Field of the files that holds the question's text."""
    answer_field: str = "answer"
    """Field that holds the reference answer, text or a number."""
    options_field: str = ""
    """Field that holds the list of a choice question's options, which follow the question's text as (A), (B), …; the
    answer is then a letter. Empty: no options."""
    reasoning_gym_tasks: tuple[str, ...] = ()
    """Tasks of the package reasoning-gym that generate the questions in turn, instead of files: NAME, or
    NAME:SETTING=VALUE,SETTING=VALUE. Question number i of a run depends only on the seed and on i."""
    grader: GraderName = "math"
    """Comparison of an answer with the reference. letter: the option's letter. exact: the text, without outer white
    space. number: the value. math: math-verify. reasoning_gym: the task's own score. verifier: a model behind
    verifier_url [G]. Answers are read from the last box, then from "Final Answer:" or "The answer is:"."""
    question_template: str = "boxed"
    """Prompt of a question: the name of a file in megatron_pz/question_answering/templates/, or the path of another. It
    holds {question} once; every other brace is text [C]."""
    chat_template: bool = False
    """Ask through the tokenizer's chat template, as one turn of the user [C]."""
    response_stop: tuple[str, ...] = ()
    """Strings that end a response and stay in it; if empty, only the model's end token ends a response [C]."""
    questions_per_step: PositiveInt = 128
    """Questions in a step [P]."""
    no_answer_reward: Annotated[float, Le(0)] = 0.0
    """Reward of a response that holds no answer or is truncated [C]; -0.5 [G]."""
    answer_length_penalty: NonNegativeFloat = 0.0
    """A right answer loses this for each token by which its length differs from the reference's [C]; 0.05 [G]."""
    answer_length_cap: PositiveInt = 10
    """Maximum difference in tokens that answer_length_penalty counts [G]."""
    eval_questions: PositiveInt = 200
    """Held-out questions in an evaluation; files with more are cut to the first ones [C]."""
    eval_samples: PositiveInt = 1
    """Answers to each held-out question, sampled at temperature 1; their mean counts [C]."""
    verifier_url: str = ""
    """Base of an OpenAI-compatible API, such as http://HOST:8000/v1; the grader ``verifier`` calls its ``completions``.
    The variable VERIFIER_API_KEY, if it is set, is sent as the bearer token."""
    verifier_model: str = ""
    """Name of the model at that server; TIGER-Lab/general-verifier [G]."""
    verifier_prompt: str = ""
    """File with the prompt, which contains {question}, {reference} and {answer} once each; empty: our own prompt. A
    model that was trained as a verifier needs the prompt of its model card [C]."""
    verifier_max_tokens: PositiveInt = 2048
    """Longest verdict, in tokens [G]."""
    verifier_timeout_seconds: PositiveFloat = 120.0
    """Longest wait for one reply [C]."""
    verifier_attempts: PositiveInt = 4
    """Attempts for a request that times out, fails or does not return a completion, with growing pauses; then the run
    ends [C]."""
    verifier_wait_minutes: NonNegativeFloat = 10.0
    """Longest wait for a server that refuses connections or reports that it is not ready (status 502, 503 or 504), as
    during its start; one line reports the wait. Below distributed_timeout_minutes, because the other ranks wait in a
    collective [C]."""
    verifier_concurrency: PositiveInt = 32
    """Maximum number of concurrent requests of one rank [C]."""
