"""Ask a worker process whether two mathematical answers are equal.

math-verify limits its time with signals, which work only in a main thread and would replace the caller's handlers. A
separate process can also be killed when it hangs in C code or uses too much memory.
"""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import threading
from pathlib import Path
from typing import Final

from megatron_pz.question_answering.qwen_math import LONGEST_ANSWER

CPU_SECONDS: Final = 5.0
"""CPU time for one comparison; math-verify allows the same for each of its two parts."""
DEADLINE_SECONDS: Final = 300.0
"""Wall-clock time after which a worker that does not answer is replaced; its own limit is in CPU time."""


class GraderFailure(Exception):
    """The grader could not compare two answers; its message is one line."""


class MathGrader:
    """A worker process that is started at the first comparison and replaced when it fails; thread-safe."""

    def __init__(self, cpu_seconds: float = CPU_SECONDS) -> None:
        """Set the limit of a comparison, in seconds of the worker's CPU time; start nothing yet."""
        self._cpu_seconds = cpu_seconds
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._owner = 0

    def equal(self, grader: str, gold: str, answer: str) -> bool:
        """Return whether ``grader`` (``math_verify`` or ``qwen``) judges the two answers equal.

        Equal texts are equal without a comparison.

        Raises:
            GraderFailure: The grader raised, ran out of time or memory, or the answer is too long.
        """
        gold, answer = gold.strip(), answer.strip()
        if gold == answer:
            return bool(gold)
        if len(answer) > LONGEST_ANSWER:
            raise GraderFailure(f"{grader}: an answer of {len(answer)} characters is not compared")
        with self._lock:
            reply = self._ask({"grader": grader, "gold": gold, "answer": answer})
        if "error" in reply:
            raise GraderFailure(f"{grader}: {reply['error']}")
        return bool(reply["equal"])

    def close(self) -> None:
        """End the worker. The next comparison starts a new one."""
        process, self._process = self._process, None
        if process is not None and self._owner == os.getpid():
            process.kill()
            process.communicate()

    def _ask(self, request: dict[str, str]) -> dict[str, object]:
        for _ in range(2):  # the worker may have been killed from outside
            worker = self._worker()
            assert worker.stdin is not None
            try:
                worker.stdin.write(json.dumps(request) + "\n")
                worker.stdin.flush()
                line = self._line(worker)
            except BrokenPipeError:
                line = ""
            if line.endswith("\n"):
                reply: dict[str, object] = json.loads(line)
                return reply
            self.close()
            if line:
                return {"error": f"no reply in {DEADLINE_SECONDS:.0f} s"}
        return {"error": "the comparison ends its process"}

    def _worker(self) -> subprocess.Popen[str]:
        if self._process is None or self._owner != os.getpid() or self._process.poll() is not None:
            root = str(Path(__file__).resolve().parents[2])
            path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
            self._process = subprocess.Popen(
                [sys.executable, "-m", "megatron_pz.question_answering.math_worker", str(self._cpu_seconds)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                env={**os.environ, "PYTHONPATH": path},
            )
            self._owner = os.getpid()
        return self._process

    def _line(self, worker: subprocess.Popen[str]) -> str:
        """Return the worker's next line, an empty string if it has ended, or ``?`` after the time limit."""
        assert worker.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(worker.stdout, selectors.EVENT_READ)
            return worker.stdout.readline() if selector.select(DEADLINE_SECONDS) else "?"


MATH_GRADER: Final = MathGrader()
"""The process-wide worker."""
