"""Let a model behind an OpenAI-compatible API decide whether an answer equals the reference.

The protocol is General-Reasoner's (arXiv 2505.14652): greedy decoding, and an answer is right where the verdict holds
"Final Decision: Yes". Departures: the whole response is read for its answer, not its last 1024 tokens, and a box may
nest braces at will, not two levels; the prompt is ours unless ``verifier_prompt`` names a file; the policy's tokenizer
counts the tokens of the length term.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

from megatron_pz.config.question_schema import QuestionConfig
from megatron_pz.question_answering.graders import Answered, Grade, read_answer
from megatron_pz.runtime.errors import BadInput, ExpectedFailure, brief

RIGHT, WRONG = "Final Decision: Yes", "Final Decision: No"
SLOTS = ("{question}", "{reference}", "{answer}")
PROMPT = f"""\
Question:
{{question}}

Reference answer:
{{reference}}

Answer to check:
{{answer}}

Decide whether the answer to check means the same as the reference answer. Do not answer the question anew. Close with
"{RIGHT}" if it does, and with "{WRONG}" if it does not.
"""
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0
"""Seconds between two tries of a request; every pause is twice the one before it."""
LONGEST_REPLY = 2**20
"""Bytes; a longer reply is no completion of a few thousand tokens."""


class VerifierFailed(ExpectedFailure):
    """The verifier gave no usable reply, however often it was asked."""


class _Unusable(Exception):
    """A reply that another try may mend."""


class ModelVerifier:
    """Grades answers by a model. Responses without an answer are not sent."""

    def __init__(self, config: QuestionConfig) -> None:
        """Read the prompt; nothing is sent yet.

        Raises:
            BadInput: the prompt cannot be read, or does not hold each of :data:`SLOTS` once.
        """
        self.config = config
        self._failed = threading.Event()
        """Ends the pauses of the other requests once one of them has failed for good."""
        self.prompt = _read_prompt(config.verifier_prompt)
        key = os.environ.get("VERIFIER_API_KEY")
        self._client = httpx.Client(
            base_url=config.verifier_url,
            timeout=config.verifier_timeout_seconds,
            headers={"Authorization": f"Bearer {key}"} if key else {},
            limits=httpx.Limits(max_connections=config.verifier_concurrency),
        )

    def grade(self, answered: Sequence[Answered]) -> list[Grade]:
        """Return the grade of each response, in order. Equal questions with equal answers are asked once.

        Raises:
            VerifierFailed: a request failed ``verifier_attempts`` times, or was refused for good.
        """
        answers = [read_answer(each) for each in answered]
        prompts = [
            None if answer is None else self.write(each, answer) for each, answer in zip(answered, answers, strict=True)
        ]
        distinct = list(dict.fromkeys(prompt for prompt in prompts if prompt is not None))
        self._failed.clear()
        with ThreadPoolExecutor(self.config.verifier_concurrency) as pool:
            verdicts = dict(zip(distinct, pool.map(self._ask, distinct), strict=True))
        return [
            Grade(None) if prompt is None else _grade(answer, verdicts[prompt])
            for prompt, answer in zip(prompts, answers, strict=True)
        ]

    def write(self, answered: Answered, answer: str) -> str:
        """Return the prompt for one answer; nothing inside question, reference or answer is interpreted."""
        question = answered.question
        values = dict(zip(SLOTS, (question.text, question.answer, answer), strict=True))
        return "".join(values.get(part, part) for part in self.prompt)

    def _ask(self, prompt: str) -> str:
        """Return the model's verdict, after as many tries as it takes."""
        attempts, seconds, failure = self.config.verifier_attempts, FIRST_PAUSE, "another request failed"
        try:
            for attempt in range(attempts):
                if self._failed.wait(seconds if attempt else 0):
                    break
                seconds = min(2 * seconds, LONGEST_PAUSE) if attempt else seconds
                try:
                    return self._try(prompt)
                except (_Unusable, httpx.HTTPError) as error:
                    failure = f"{type(error).__name__.lstrip('_')}: {brief(error, 200)}"
            raise VerifierFailed(
                f"--verifier-url {self.config.verifier_url}: no usable reply in {attempts} tries, "
                f"the last one: {failure}"
            )
        except BaseException:
            self._failed.set()
            raise

    def _try(self, prompt: str) -> str:
        """Send one request.

        Raises:
            _Unusable: the server is busy, failed, or sent something else than a completion.
            httpx.HTTPError: the connection failed or timed out.
            VerifierFailed: the server refuses the request, and would again.
        """
        config = self.config
        body = {
            "model": config.verifier_model,
            "prompt": prompt,
            "temperature": 0,
            "max_tokens": config.verifier_max_tokens,
        }
        with self._client.stream("POST", "completions", json=body) as reply:
            content = self._read(reply)
        start = " ".join(content[:400].decode(errors="replace").split())[:200]
        if reply.status_code in (408, 425, 429) or reply.status_code >= 500:
            raise _Unusable(f"status {reply.status_code} {reply.reason_phrase}")
        if reply.status_code != 200:
            raise VerifierFailed(
                f"--verifier-url {config.verifier_url} refuses a request with status {reply.status_code}: {start}"
            )
        try:
            text = json.loads(content)["choices"][0]["text"]
        except (ValueError, LookupError, TypeError):
            text = None
        if not isinstance(text, str):
            raise _Unusable(f"no completion: {start!r}")
        return text

    def _read(self, reply: httpx.Response) -> bytes:
        """Read a reply; the client's own timeout would let a server send a byte now and then for ever."""
        deadline = time.monotonic() + self.config.verifier_timeout_seconds
        content = b""
        for chunk in reply.iter_bytes():
            content += chunk
            if time.monotonic() > deadline:
                raise _Unusable(f"the reply was not complete in {self.config.verifier_timeout_seconds:g} s")
            if len(content) > LONGEST_REPLY:
                raise _Unusable(f"a reply of more than {LONGEST_REPLY} bytes")
        return content


def _grade(answer: str | None, verdict: str) -> Grade:
    if RIGHT in verdict:
        return Grade(answer, 1.0)
    return Grade(answer, error=None if WRONG in verdict else f"no decision in {' '.join(verdict.split())[-80:]!r}")


def _read_prompt(path: str) -> list[str]:
    """Return the prompt cut at its slots, which are entries of their own."""
    try:
        text = Path(path).read_text(encoding="utf-8").removesuffix("\n") if path else PROMPT
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"--verifier-prompt {path} cannot be read: {brief(error)}") from None
    for slot in SLOTS:
        if text.count(slot) != 1:
            raise BadInput(f"--verifier-prompt {path} holds {slot} {text.count(slot)} times; it must be there once")
    parts = [text]
    for slot in SLOTS:
        parts = [piece for part in parts for piece in _around(part, slot)]
    return parts


def _around(part: str, slot: str) -> list[str]:
    before, found, after = part.partition(slot)
    return [before, found, after] if found else [part]
