"""Refuse settings of question answering that cannot work on any machine.

Files and packages are checked where they are opened, and before a job is submitted by ``--check``.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import urlsplit

from megatron_pz.config.question_schema import QuestionConfig

_ODD: Final = re.compile(r"[\s?#]")


def asks_questions(questions: QuestionConfig) -> bool:
    """Return whether the configuration names questions to train on."""
    return bool(questions.question_path or questions.reasoning_gym_tasks)


def has_held_out_questions(questions: QuestionConfig) -> bool:
    """Return whether there are questions to evaluate with."""
    return bool(questions.valid_question_path or questions.reasoning_gym_tasks)


def _is_address(url: str) -> bool:
    """Return whether a URL has a scheme of HTTP, a host and a port that can be; a query has no place in a base."""
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0 and not _ODD.search(url)
    except ValueError:  # a port that is no number, or an unclosed bracket
        return False


def question_rules(q: QuestionConfig) -> list[tuple[bool, str]]:
    """Return (whether it holds, the error message if not) for every rule."""
    return [
        (
            not (q.question_path and q.reasoning_gym_tasks),
            "--question-path and --reasoning-gym-tasks both name training questions: give one of them",
        ),
        (
            q.grader != "reasoning_gym" or bool(q.reasoning_gym_tasks),
            "--grader reasoning_gym scores its own tasks only: give --reasoning-gym-tasks, or another grader",
        ),
        (
            q.grader != "reasoning_gym" or not q.valid_question_path,
            "--grader reasoning_gym cannot score --valid-question-path: leave it out, and held-out tasks are generated",
        ),
        (
            q.grader != "letter" or bool(q.options_field) or not (q.question_path or q.valid_question_path),
            "--grader letter needs --options-field, the field with the list of options",
        ),
        (
            q.grader != "verifier" or _is_address(q.verifier_url),
            f"--verifier-url {q.verifier_url or '(empty)'}: the grader verifier needs an address such as "
            "http://HOST:8000/v1",
        ),
        (
            q.grader != "verifier" or bool(q.verifier_model),
            "--verifier-model is missing: name the model that --verifier-url serves",
        ),
    ]
