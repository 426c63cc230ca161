"""The model verifier with a server that times out, fails and sends malformed replies."""

from __future__ import annotations

import dataclasses
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from megatron_pz.config.question_schema import QuestionConfig
from megatron_pz.question_answering import verifier
from megatron_pz.question_answering.graders import Answered, Grade
from megatron_pz.question_answering.question import Question
from megatron_pz.question_answering.verifier import ModelVerifier, VerifierFailed
from megatron_pz.runtime.errors import BadInput

Reply = Callable[[BaseHTTPRequestHandler], None]


def say(text: str, status: int = 200) -> Reply:
    return raw(json.dumps({"choices": [{"text": text}]}).encode(), status)


def raw(body: bytes, status: int = 200) -> Reply:
    def send(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    return send


def hang(handler: BaseHTTPRequestHandler) -> None:
    time.sleep(0.4)


def drip(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.end_headers()
    for _ in range(40):
        handler.wfile.write(b" ")
        handler.wfile.flush()
        time.sleep(0.02)


def hang_up(handler: BaseHTTPRequestHandler) -> None:
    handler.connection.shutdown(socket.SHUT_RDWR)


class Server:
    """Answers each request with the next of its replies, and repeats the last one."""

    def __init__(self) -> None:
        self.replies: list[Reply] = []
        self.requests: list[dict[str, Any]] = []
        self.headers: list[str | None] = []
        lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    outer.requests.append({"path": self.path, **body})
                    outer.headers.append(self.headers["Authorization"])
                    reply = outer.replies.pop(0) if len(outer.replies) > 1 else outer.replies[0]
                reply(self)

            def log_message(self, *arguments: Any) -> None:
                pass

        class Quiet(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *arguments: Any) -> None:  # a client that has given up
                pass

        self.http = Quiet(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(verifier, "FIRST_PAUSE", 0.001)
    served = Server()
    threading.Thread(target=served.http.serve_forever, args=(0.01,), daemon=True).start()
    yield served
    served.http.shutdown()
    served.http.server_close()


def settings(server: Server, **more: Any) -> QuestionConfig:
    config = QuestionConfig(grader="verifier", verifier_url=server.url, verifier_model="judge")
    return dataclasses.replace(config, **{"verifier_timeout_seconds": 10.0, "verifier_attempts": 3} | more)


def answered(response: str, truncated: bool = False) -> Answered:
    return Answered(Question("set", "0", "set", "What is {1 + 1}?", "2", "file:1"), response, truncated)


def test_the_protocol(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VERIFIER_API_KEY", "secret")
    server.replies = [say("It is. Final Decision: Yes"), say("Final Decision: No")]
    grader = ModelVerifier(settings(server, verifier_concurrency=1))
    grades = grader.grade([answered(r"\boxed{two}"), answered("no idea"), answered(r"\boxed{3}")])
    assert grades == [Grade("two", 1.0), Grade(None), Grade("3", 0.0)]
    assert [request["path"] for request in server.requests] == ["/v1/completions"] * 2
    assert server.headers == ["Bearer secret"] * 2
    first = server.requests[0]
    assert (first["model"], first["temperature"], first["max_tokens"]) == ("judge", 0, 2048)
    assert "What is {1 + 1}?" in first["prompt"] and "\n2\n" in first["prompt"] and "\ntwo\n" in first["prompt"]


def test_a_truncated_response_is_not_sent_and_an_equal_answer_is_sent_once(server: Server) -> None:
    server.replies = [say("Final Decision: Yes")]
    grades = ModelVerifier(settings(server)).grade(
        [answered(r"\boxed{2}"), answered(r"\boxed{2}", truncated=True), answered(r"so \boxed{2}")]
    )
    assert grades == [Grade("2", 1.0), Grade(None), Grade("2", 1.0)] and len(server.requests) == 1


@pytest.mark.parametrize(
    "failure",
    [
        hang,
        drip,
        hang_up,
        raw(b"out of memory", 500),
        raw(b"slow down", 429),
        raw(b"<html>welcome</html>"),
        raw(b'{"choices": []}'),
        raw(b'{"choices": [{"text": null}]}'),
        raw(b"[1, 2"),
        raw(b"x" * (verifier.LONGEST_REPLY + 1)),
    ],
    ids=["hang", "drip", "hang up", "500", "429", "html", "no choices", "no text", "half JSON", "endless"],
)
def test_what_fails_is_tried_again(failure: Reply, server: Server) -> None:
    server.replies = [failure, failure, say("Final Decision: Yes")]
    patience = {"verifier_timeout_seconds": 0.2} if failure in (hang, drip) else {}
    assert ModelVerifier(settings(server, **patience)).grade([answered(r"\boxed{2}")]) == [Grade("2", 1.0)]
    assert len(server.requests) == 3


def test_after_the_last_try_the_run_ends_with_one_line(server: Server) -> None:
    server.replies = [raw(b"CUDA error", 500)]
    with pytest.raises(VerifierFailed, match=r"^--verifier-url \S+: no usable reply in 3 tries, the last one: .*500 "):
        ModelVerifier(settings(server, verifier_concurrency=1)).grade([answered(f"\\boxed{{{n}}}") for n in range(9)])
    assert len(server.requests) == 3, "the other requests are given up"


def test_a_server_that_is_not_there_is_waited_for(
    server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The wait exceeds the attempts of a request, and several requests report it once."""
    server.replies = [raw(b"loading", 503)] * 4 + [say("Final Decision: Yes")]
    stream, refused = httpx.Client.stream, [1] * 4

    def connect(client: httpx.Client, *words: Any, **more: Any) -> Any:
        if refused:
            refused.pop()
            raise httpx.ConnectError("Connection refused")
        return stream(client, *words, **more)

    monkeypatch.setattr(httpx.Client, "stream", connect)
    grades = ModelVerifier(settings(server)).grade([answered(r"\boxed{2}"), answered(r"\boxed{two}")])
    assert [grade.right for grade in grades] == [True, True]
    waits, there = capsys.readouterr().err.splitlines()
    assert waits == (
        f"--verifier-url {server.url}: ConnectError: Connection refused; waiting for the server, at most 10 minutes "
        "(--verifier-wait-minutes)"
    )
    assert there.startswith(f"--verifier-url {server.url}: there after ")


def test_a_server_that_stays_away_ends_the_run(server: Server) -> None:
    nowhere = dataclasses.replace(settings(server), verifier_url="http://127.0.0.1:1/v1", verifier_wait_minutes=0.001)
    with pytest.raises(VerifierFailed, match=r"no server for 0\.\d+ minutes, the last try: ConnectError"):
        ModelVerifier(nowhere).grade([answered(r"\boxed{2}")])


def test_a_run_that_is_to_stop_waits_for_no_server(server: Server) -> None:
    nowhere = dataclasses.replace(settings(server), verifier_url="http://127.0.0.1:1/v1")
    grader = ModelVerifier(nowhere)
    looked: list[int] = []
    grader.is_stopping = lambda: len(looked) > 3 or looked.append(1) is not None
    with pytest.raises(VerifierFailed, match=r"ConnectError: .*, and the run has to stop"):
        grader.grade([answered(r"\boxed{2}")])
    server.replies = [raw(b"CUDA error", 500)]
    failing = ModelVerifier(settings(server))
    failing.is_stopping = lambda: True
    with pytest.raises(VerifierFailed, match=r"status 500 .*, and the run has to stop"):
        failing.grade([answered(r"\boxed{2}")])
    assert len(server.requests) == 1


def test_the_failure_that_is_told_is_the_one_that_ended_the_run(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first request is still being retried when the second one is refused."""
    monkeypatch.setattr(verifier, "FIRST_PAUSE", 60.0)
    tried = threading.Event()

    def send(self: ModelVerifier, prompt: str) -> str:
        if "\nfirst\n" in prompt:
            tried.set()
            raise verifier._Unusable("status 500")
        assert tried.wait(10)
        raise VerifierFailed("the refusal")

    monkeypatch.setattr(ModelVerifier, "_try", send)
    with pytest.raises(VerifierFailed, match=r"^the refusal$"):
        ModelVerifier(settings(server)).grade([answered(r"\boxed{first}"), answered(r"\boxed{second}")])


def test_a_refusal_is_not_tried_again(server: Server) -> None:
    server.replies = [raw(b'{"error": "no model\njudge"}', 404)]
    with pytest.raises(VerifierFailed, match=r"refuses a request with status 404: .*no model judge"):
        ModelVerifier(settings(server)).grade([answered(r"\boxed{2}")])
    assert len(server.requests) == 1


def test_a_verdict_without_a_decision_counts_as_wrong_and_is_reported(server: Server) -> None:
    server.replies = [say("Well, it depends.")]
    (grade,) = ModelVerifier(settings(server)).grade([answered(r"\boxed{2}")])
    assert grade.score == 0.0 and grade.error == "no decision in 'Well, it depends.'"


def test_a_prompt_of_ones_own(server: Server, tmp_path: Path) -> None:
    own = tmp_path / "prompt.txt"
    own.write_text("Q {question} R {reference} A {answer} Assistant:\n")
    server.replies = [say("Final Decision: Yes")]
    ModelVerifier(settings(server, verifier_prompt=str(own))).grade([answered(r"\boxed{{reference}}")])
    assert server.requests[0]["prompt"] == "Q What is {1 + 1}? R 2 A {reference} Assistant:"
    own.write_text("{question} {answer}")
    with pytest.raises(BadInput, match=r"holds \{reference\} 0 times"):
        ModelVerifier(settings(server, verifier_prompt=str(own)))
