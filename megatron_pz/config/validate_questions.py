"""Refuse settings of question answering that cannot work, without a model or the questions themselves."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from megatron_pz.config.question_schema import QuestionConfig


def asks_questions(questions: QuestionConfig) -> bool:
    """Return whether the configuration names questions to train on."""
    return bool(questions.question_path or questions.reasoning_gym_tasks)


def has_held_out_questions(questions: QuestionConfig) -> bool:
    """Return whether there are questions to evaluate with."""
    return bool(questions.valid_question_path or questions.reasoning_gym_tasks)


def question_rules(q: QuestionConfig) -> list[tuple[bool, str]]:
    """Return (whether it holds, the complaint where it does not) for every rule."""
    gym = bool(q.reasoning_gym_tasks) or q.grader == "reasoning_gym"
    return [
        (
            not (q.question_path and q.reasoning_gym_tasks),
            "--question-path and --reasoning-gym-tasks both name training questions: give one of them",
        ),
        (
            not gym or importlib.util.find_spec("reasoning_gym") is not None,
            "--reasoning-gym-tasks needs the package reasoning-gym: pip install 'megatron-pz[questions]'",
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
            q.grader != "letter" or bool(q.options_field) or not q.question_path,
            "--grader letter needs --options-field, the field with the list of options",
        ),
        (all(q.response_stop), "--response-stop: an empty string ends no response; leave it out"),
        (
            q.grader != "verifier" or q.verifier_url.startswith(("http://", "https://")),
            f"--verifier-url {q.verifier_url or '(empty)'}: the grader verifier needs an address such as "
            "http://HOST:8000/v1",
        ),
        (
            q.grader != "verifier" or bool(q.verifier_model),
            "--verifier-model is missing: name the model that --verifier-url serves",
        ),
        *(
            (Path(path).is_file(), f"{flag} {path}: no such file")
            for flag, paths in (
                ("--question-path", q.question_path),
                ("--valid-question-path", q.valid_question_path),
                ("--verifier-prompt", (q.verifier_prompt,) if q.verifier_prompt else ()),
            )
            for path in paths
        ),
    ]
