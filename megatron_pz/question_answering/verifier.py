"""Let a model behind an OpenAI-compatible API decide whether an answer equals the reference.

The protocol is General-Reasoner's (arXiv 2505.14652): decoding is greedy, and an answer is right if the verdict
contains "Final Decision: Yes". Departures: the answer is read from the whole response, not its last 1024 tokens, and a
box may nest braces to any depth, not two levels; without a box, lines after "Final Answer:" and "The answer is:" are
read, not those after "Answer:" and "Solution:"; the prompt is ours unless ``verifier_prompt`` names a file; the
policy's tokenizer counts the tokens of the length term.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
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
"""Seconds between two attempts of a request; every pause is twice the previous one."""
LONGEST_REPLY = 2**20
"""Maximum bytes of a reply; a completion of a few thousand tokens is shorter."""
NOT_READY = (502, 503, 504)
"""Statuses of a server that is being started, or of a proxy in front of it."""
LOOK_SECONDS = 1.0
"""Interval, in seconds, at which a pause checks whether the run has to stop."""


class VerifierFailed(ExpectedFailure):
    """The verifier gave no usable reply in any attempt."""


class _Unusable(Exception):
    """An unusable reply; another attempt may succeed."""


class _NotThere(Exception):
    """There is no connection, or the server is not ready; waiting may help."""


class _GivenUp(Exception):
    """Another request has failed permanently."""


class ModelVerifier:
    """Grades answers by a model. Responses without an answer are not sent."""

    def __init__(self, config: QuestionConfig) -> None:
        """Read the prompt without sending anything yet.

        Raises:
            BadInput: the prompt cannot be read or does not contain each of :data:`SLOTS` once.
        """
        self.config = config
        self.is_stopping: Callable[[], bool] = lambda: False
        """Returns whether the run has to stop, which ends all waits."""
        self._failed = threading.Event()
        """Set when a request has failed permanently; ends the pauses of the others."""
        self._lock = threading.Lock()
        self._failure: BaseException | None = None
        """The first permanent failure."""
        self._missed_since: float | None = None
        """Time at which a request first found no server; None after an answer."""
        self._said: set[str] = set()
        """Messages about a missing server printed during the current call of :meth:`grade`."""
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
            VerifierFailed: a request failed ``verifier_attempts`` times or was refused permanently, or the server was
                unreachable for ``verifier_wait_minutes`` or when the run had to stop.
        """
        answers = [read_answer(each) for each in answered]
        prompts = [
            None if answer is None else self.write(each, answer) for each, answer in zip(answered, answers, strict=True)
        ]
        distinct = list(dict.fromkeys(prompt for prompt in prompts if prompt is not None))
        self._failed.clear()
        self._failure = self._missed_since = None
        self._said.clear()
        with ThreadPoolExecutor(self.config.verifier_concurrency) as pool:
            replies = [pool.submit(self._ask, prompt) for prompt in distinct]
        if self._failure is not None:
            raise self._failure
        verdicts = {prompt: reply.result() for prompt, reply in zip(distinct, replies, strict=True)}
        return [
            Grade(None) if prompt is None else _grade(answer, verdicts[prompt])
            for prompt, answer in zip(prompts, answers, strict=True)
        ]

    def write(self, answered: Answered, answer: str) -> str:
        """Return the prompt for one answer. The texts of question, reference and answer are not interpreted."""
        question = answered.question
        values = dict(zip(SLOTS, (question.text, question.answer, answer), strict=True))
        return "".join(values.get(part, part) for part in self.prompt)

    def _ask(self, prompt: str) -> str:
        """Return the model's verdict, retrying as necessary."""
        try:
            return self._verdict(prompt)
        except _GivenUp:
            raise
        except BaseException as failure:
            with self._lock:
                self._failure = self._failure or failure
            self._failed.set()
            raise

    def _verdict(self, prompt: str) -> str:
        config, failures, seconds = self.config, 0, FIRST_PAUSE
        while not self._failed.is_set():
            try:
                text = self._try(prompt)
                self._found()
                return text
            except (_NotThere, httpx.ConnectError, httpx.ConnectTimeout) as error:
                self._missed(_cause(error))
            except (_Unusable, httpx.HTTPError) as error:
                failures += 1
                if failures == config.verifier_attempts:
                    raise VerifierFailed(
                        f"--verifier-url {config.verifier_url}: no usable reply in {failures} tries, "
                        f"the last one: {_cause(error)}"
                    ) from None
                self._require_time(_cause(error))
            self._pause(seconds)
            seconds = min(2 * seconds, LONGEST_PAUSE)
        raise _GivenUp

    def _pause(self, seconds: float) -> None:
        """Wait before another attempt; wait only briefly if the run has to stop or another request has failed."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0 and not self.is_stopping():
            if self._failed.wait(min(left, LOOK_SECONDS)):
                break

    def _missed(self, cause: str) -> None:
        """Record that the server is unreachable; the first request to find this prints a message.

        Raises:
            VerifierFailed: the waiting time is over, or the run has to stop.
        """
        config, now = self.config, time.monotonic()
        with self._lock:
            since = self._missed_since = now if self._missed_since is None else self._missed_since
        self._require_time(cause)
        if now - since >= 60 * config.verifier_wait_minutes:
            raise VerifierFailed(
                f"--verifier-url {config.verifier_url}: no server for {(now - since) / 60:.3g} minutes, the last try: "
                f"{cause}"
            )
        self._say_once(
            "missing",
            f"{cause}; waiting for the server, at most {config.verifier_wait_minutes:g} minutes "
            "(--verifier-wait-minutes)",
        )

    def _found(self) -> None:
        """Record that the server has answered."""
        with self._lock:
            since, self._missed_since = self._missed_since, None
        if since is not None:
            self._say_once("there", f"there after {time.monotonic() - since:.0f} s")

    def _require_time(self, cause: str) -> None:
        """Raise VerifierFailed if the run has to stop, so that a failed request is not retried."""
        if self.is_stopping():
            raise VerifierFailed(f"--verifier-url {self.config.verifier_url}: {cause}, and the run has to stop")

    def _say_once(self, subject: str, line: str) -> None:
        with self._lock:
            said = subject in self._said
            self._said.add(subject)
        if not said and os.environ.get("LOCAL_RANK", "0") == "0":
            print(f"--verifier-url {self.config.verifier_url}: {line}", file=sys.stderr, flush=True)

    def _try(self, prompt: str) -> str:
        """Send one request.

        Raises:
            _Unusable: the server is busy, failed, or did not send a completion.
            _NotThere: the server is not ready.
            httpx.HTTPError: the connection failed or timed out.
            VerifierFailed: the server refuses the request permanently.
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
        if reply.status_code in NOT_READY:
            raise _NotThere(f"status {reply.status_code} {reply.reason_phrase}")
        if reply.status_code in (408, 425, 429) or reply.status_code >= 500:
            raise _Unusable(f"status {reply.status_code} {reply.reason_phrase}")
        if reply.status_code != 200:
            raise VerifierFailed(
                f"--verifier-url {config.verifier_url} refuses a request with status {reply.status_code}: {start}"
            )
        try:
            text = json.loads(content)["choices"][0]["text"]
        except (ValueError, LookupError, TypeError, RecursionError):
            text = None
        if not isinstance(text, str):
            raise _Unusable(f"no completion: {start!r}")
        return text

    def _read(self, reply: httpx.Response) -> bytes:
        """Read a reply within a total deadline; the client's timeout restarts with every received byte."""
        deadline = time.monotonic() + self.config.verifier_timeout_seconds
        content = b""
        for chunk in reply.iter_bytes():
            content += chunk
            if time.monotonic() > deadline:
                raise _Unusable(f"the reply was not complete in {self.config.verifier_timeout_seconds:g} s")
            if len(content) > LONGEST_REPLY:
                raise _Unusable(f"a reply of more than {LONGEST_REPLY} bytes")
        return content


def _cause(error: Exception) -> str:
    return f"{type(error).__name__}: {brief(error, 200)}" if isinstance(error, httpx.HTTPError) else brief(error, 200)


def _grade(answer: str | None, verdict: str) -> Grade:
    if RIGHT in verdict:
        return Grade(answer, 1.0)
    return Grade(answer, error=None if WRONG in verdict else f"no decision in {' '.join(verdict.split())[-80:]!r}")


def _read_prompt(path: str) -> list[str]:
    """Return the prompt split at its slots; each slot is a separate entry."""
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
