"""The end of a rollout rank."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, NoReturn

import pytest

from megatron_pz.run.rollout_rank import serve_to_the_end


class Left(Exception):
    """Raised instead of the end of a process."""


def leave() -> NoReturn:
    raise Left


def failing(message: str) -> Any:
    def fail() -> NoReturn:
        raise RuntimeError(message)

    return fail


@pytest.mark.parametrize("part", ["serve", "close"])
def test_a_rank_leaves_with_the_run_though_another_one_is_gone(part: str) -> None:
    """This includes a failure after the last command, when the run is complete."""
    done: list[str] = []
    served: Any = SimpleNamespace(
        serve=lambda: done.append("serve"),
        close=lambda: done.append("close"),
        connection=SimpleNamespace(close=lambda: done.append("connection")),
    )
    with pytest.raises(Left):
        serve_to_the_end(served, leave)
    assert done == ["serve", "close"]
    done.clear()
    setattr(served, part, failing("[gloo/transport/tcp/pair.cc:547] Connection closed by peer"))
    with pytest.raises(Left):
        serve_to_the_end(served, leave)
    assert done[-1] == "connection"
    setattr(served, part, failing("a fault of this rank"))
    with pytest.raises(RuntimeError, match="a fault of this rank"):
        serve_to_the_end(served, leave)
