"""Run tasks in processes that share the parent's loaded data and never outlive the parent."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from megatron_pz.runtime.errors import BadInput

if TYPE_CHECKING:
    from concurrent.futures import Future

Task = TypeVar("Task")
Result = TypeVar("Result")

_TASKS_AHEAD = 2
"""Tasks handed out per process; more would only hold more decompressed text of one-stream dumps in memory."""
_PR_SET_PDEATHSIG = 1


class Stopped(Exception):
    """The run was interrupted during this task."""


def map_unordered(
    function: Callable[[Task, Callable[[], bool]], Result], tasks: Iterator[Task], workers: int
) -> Iterator[Result]:
    """Yield ``function(task, is_stopped)`` of every task in order of completion; with one worker, in this process.

    The processes are forked, so that they inherit the function with its data (a tokenizer is loaded once). When the
    caller stops iterating or a task fails, ``is_stopped()`` becomes true and the function must raise :class:`Stopped`
    soon. The processes die with this one, even after SIGKILL (Linux).

    Raises:
        BadInput: A process was killed.
    """
    if workers == 1:
        for task in tasks:
            yield function(task, _never)
        return
    import multiprocessing
    from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
    from concurrent.futures.process import BrokenProcessPool

    context = multiprocessing.get_context("fork")
    stop = context.RawValue("b", 0)
    shared = _Shared(function, stop, os.getpid())
    with ProcessPoolExecutor(workers, context, _start, (shared,)) as pool:
        pending: set[Future[Result]] = set()
        try:
            for task in tasks:
                pending.add(pool.submit(_work, task))
                if len(pending) >= _TASKS_AHEAD * workers:
                    done, pending = wait(pending, return_when=FIRST_COMPLETED)
                    yield from (future.result() for future in done)
            while pending:
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
        except BrokenProcessPool:
            raise BadInput(
                "a worker process was killed, most likely because memory ran out; finished work is kept, the same "
                "command with fewer --workers continues"
            ) from None
        finally:
            stop.value = 1
            pool.shutdown(wait=True, cancel_futures=True)


class _Shared(Generic[Task, Result]):
    """The function and state that a forked process inherits."""

    def __init__(self, function: Callable[[Task, Callable[[], bool]], Result], stop: Any, parent: int) -> None:
        self.function, self.stop, self.parent = function, stop, parent

    def is_stopped(self) -> bool:
        return bool(self.stop.value)


_shared: _Shared | None = None


def _start(shared: _Shared) -> None:
    global _shared
    _shared = shared
    # Ctrl-C reaches all processes of the terminal, but the parent decides when to stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != shared.parent:  # the parent died before the kernel registered the request
        os._exit(1)


def _work(task: Any) -> Any:
    assert _shared is not None
    return _shared.function(task, _shared.is_stopped)


def _never() -> bool:
    return False
