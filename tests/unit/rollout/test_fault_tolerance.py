"""The failures that start a new engine, on which ranks, and how often. tests/system has the real vLLM."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch._dynamo import convert_frame

from megatron_pz.config.schema import RolloutConfig
from megatron_pz.rl.experience import Response, SampleRequest
from megatron_pz.rollout import fault_tolerance as restarting
from megatron_pz.rollout import lifecycle
from megatron_pz.rollout.engine import VllmEngine
from megatron_pz.rollout.fault_tolerance import RestartingEngine, TooManyEngineFailures
from megatron_pz.rollout.lifecycle import EngineBroken, EngineLifecycle
from megatron_pz.rollout.log_prob_semantics import LogProbSemanticsError
from megatron_pz.rollout.platform import GpuPlatform
from megatron_pz.rollout.vllm_patches import forget_compiled, release_pools
from megatron_pz.runtime.errors import BadInput


class Engine:
    """Answers with its weights, and breaks in the planned calls."""

    def __init__(self, breaks_in: set[str]) -> None:
        self.breaks_in, self.weights, self.broken, self.closed = breaks_in, -1, False, False
        self.checked_with: list[int] = []

    def call(self, kind: str) -> None:
        assert not self.broken and not self.closed
        if kind in self.breaks_in:
            self.broken = True
            raise RuntimeError(f"{kind} went wrong")

    def generate(
        self, prompts: list, n: int, *, seeds: list[int], max_tokens: int, stop: list, decoding: Any = None
    ) -> list:
        if max_tokens > 100:
            raise BadInput("too long")
        self.call("generate")
        return [[Response((seed, self.weights), (0.0, 0.0), "", False)] * n for seed in seeds]

    def answer(self, requests: list, *, stop: list, then: Callable) -> dict:
        answers: dict = {}
        waiting = list(requests)
        for request in waiting:
            answers[request.key] = [Response((request.seed, self.weights), (0.0, 0.0), "", False)]
            waiting += then(request.key, answers)
            self.call("answer")
        return answers

    def healthy(self) -> bool:
        return not self.broken

    def close(self) -> None:
        self.closed = True
        if self.broken:
            raise RuntimeError("a broken engine does not even close")


class Rank:
    """A rank whose engines break as planned, by one set of calls for each engine that it starts."""

    def __init__(self, *breaks_in: set[str], exchange: Callable = lambda own: [own], max_restarts: int = 2) -> None:
        self.plans, self.engines, self.trained = list(breaks_in), [], 0
        self.restarting = RestartingEngine(
            self.start, self.weights, exchange=exchange, max_restarts=max_restarts, check=self.check
        )

    def start(self) -> Engine:
        self.engines.append(Engine(self.plans.pop(0) if self.plans else set()))
        return self.engines[-1]

    def check(self, engine: Engine) -> None:
        engine.checked_with.append(engine.weights)
        engine.call("check")

    def weights(self) -> list:
        return [("trained", torch.tensor(self.trained))]

    def ask(self, *seeds: int, max_tokens: int = 8) -> list[list[tuple[int, ...]]]:
        prompts = [[1]] * len(seeds)
        answers = self.restarting.generate(prompts, 2, seeds=seeds, max_tokens=max_tokens, stop=[])
        return [[response.token_ids for response in group] for group in answers]


@pytest.fixture(autouse=True)
def _load_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(engine: Engine, stream: list) -> None:
        engine.call("sync")
        engine.weights = int(dict(stream)["trained"])

    monkeypatch.setattr(restarting, "load_weights", load)


def test_a_living_engine_is_left_alone() -> None:
    rank = Rank()
    rank.trained = 1
    rank.restarting.sync()
    assert rank.ask(5, 6) == [[(5, 1)] * 2, [(6, 1)] * 2]
    assert len(rank.engines) == 1


def test_a_dead_engine_is_replaced_with_the_current_weights_and_asked_again() -> None:
    rank = Rank({"generate"})
    rank.trained = 3
    rank.restarting.sync()
    assert rank.ask(5) == [[(5, 3)] * 2]
    assert [engine.closed for engine in rank.engines] == [True, False]
    assert rank.restarting.restarts == 1


def test_a_dead_engine_is_asked_again_for_the_first_requests_and_what_follows_from_them() -> None:
    rank = Rank({"answer"})
    seen: list[tuple[str, int]] = []

    def follow(key: str, answers: dict) -> list[SampleRequest]:
        seen.append((key, len(answers)))
        return [SampleRequest("then", (2,), 6, range(1), 8)] if key == "first" else []

    answers = rank.restarting.answer([SampleRequest("first", (1,), 5, range(1), 8)], stop=(), then=follow)
    assert answers["first"][0].token_ids == (5, 0)
    assert seen[:2] == [("first", 1), ("first", 1)], "the answers of the first engine are forgotten"
    assert rank.restarting.restarts == 1


def test_a_follow_up_that_no_engine_would_take_ends_the_run_at_once() -> None:
    def too_long(key: object, answers: object) -> list[SampleRequest]:
        raise BadInput("prompt 0 has 2000 tokens")

    rank = Rank()
    rank.engines[0].answer = _broken_by(rank.engines[0], too_long)  # type: ignore[method-assign]
    with pytest.raises(BadInput, match="2000 tokens"):
        rank.restarting.answer([SampleRequest("first", (1,), 5, range(1), 8)], stop=(), then=too_long)
    assert len(rank.engines) == 1


def _broken_by(engine: Engine, follow: Callable) -> Callable:
    """Answer as vLLM's engine does: an error during running requests breaks it."""

    def answer(requests: list, *, stop: list, then: Callable) -> dict:
        engine.broken = True
        return {each.key: follow(each.key, {}) for each in requests}

    return answer


def test_a_broken_weight_update_replaces_the_engine_too() -> None:
    rank = Rank({"sync"}, {"sync"})
    assert rank.ask(5) == [[(5, 0)] * 2]
    assert len(rank.engines) == 3


def test_every_new_engine_is_checked_once_with_the_trainers_weights() -> None:
    rank = Rank({"generate"}, {"sync"}, {"check"})
    rank.restarting.max_restarts = 3
    rank.restarting.sync()
    rank.trained = 4
    assert rank.ask(5) == [[(5, 4)] * 2]
    rank.restarting.sync()
    assert [engine.checked_with for engine in rank.engines] == [[0], [], [4], [4]]


def test_an_engine_that_fails_its_check_in_good_health_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(rank: Rank, engine: Engine) -> None:
        raise LogProbSemanticsError("another temperature")

    monkeypatch.setattr(Rank, "check", refuse)
    with pytest.raises(LogProbSemanticsError, match="another temperature"):
        Rank()


def test_an_engine_without_weights_refuses_to_generate(engine: VllmEngine) -> None:
    engine._has_weights = False
    with pytest.raises(RuntimeError, match="has no weights yet"):
        engine.run([[1]], [])
    assert engine.healthy()


def test_after_so_many_restarts_the_failure_is_one_line() -> None:
    rank = Rank({"generate"}, {"generate"}, max_restarts=1)
    with pytest.raises(TooManyEngineFailures) as caught:
        rank.ask(5)
    assert str(caught.value) == (
        "the rollout engine of rank 0 failed (RuntimeError: generate went wrong) after 1 restarts: no more are allowed "
        "(--max-engine-restarts 1); resume from the last checkpoint"
    )


@pytest.fixture
def engine() -> VllmEngine:
    """Return an engine with a replaceable vLLM."""
    engine = VllmEngine.__new__(VllmEngine)
    engine.rollout, engine._llm = RolloutConfig(), SimpleNamespace()
    engine._broken, engine._closed, engine._colocated = None, False, True
    engine._watchdog, engine._sleeping, engine.platform = None, set(), GpuPlatform()
    engine.return_experts = False
    return engine


def test_memory_pools_end_before_the_allocators_that_they_need() -> None:
    """This holds for both forms in which versions of vLLM store them."""
    ended: list[str] = []

    class Held:
        def __init__(self, name: str) -> None:
            weakref.finalize(self, ended.append, name)

    by_tag: dict[str, Any] = {
        "weights": (Held("pool"), Held("allocator")),
        "kv_cache": [(Held("pool"), Held("allocator")), (Held("pool"), Held("allocator"))],
    }
    release_pools(by_tag)
    assert ended == ["pool"] * 3 + ["allocator"] * 3
    assert by_tag == {}


def test_a_response_that_vllm_gave_up_breaks_the_engine(engine: VllmEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine is then replaced and its prompts repeated, instead of ending one rank's run."""
    aborted = SimpleNamespace(outputs=[SimpleNamespace(finish_reason="abort")])
    monkeypatch.setattr(engine, "sampling", lambda *_, **__: None)
    monkeypatch.setattr(engine, "run", lambda prompts, sampling: [aborted])
    with pytest.raises(EngineBroken, match="ended for the reason 'abort'"):
        engine.generate([[1]], 1, seeds=[0], max_tokens=4, stop=())
    assert not engine.healthy()


def test_an_engine_that_does_not_end_in_order_lets_go_of_its_memory(
    engine: VllmEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def shutdown() -> None:
        raise RuntimeError("dead already")

    released: list[tuple[bool, bool]] = []
    engine._llm = SimpleNamespace(
        apply_model=lambda function: None,
        llm_engine=SimpleNamespace(engine_core=SimpleNamespace(shutdown=shutdown)),
    )
    monkeypatch.setattr(EngineLifecycle, "_living", 1)
    # Both import vLLM.
    monkeypatch.setattr(lifecycle, "engine_groups_kept", lambda keep: nullcontext())
    engine.platform.closed = lambda last: released.append((last, hasattr(engine, "_llm")))  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="dead already"):
        engine.close()
    assert not hasattr(engine, "_llm")
    assert released == [(True, False)]


def test_the_compiler_forgets_the_model_of_an_engine_that_ends() -> None:
    """All of the model's hooks are removed, also if a module has two, but no others."""

    class Layer(torch.nn.Module):
        def hook(self, old: object, new: object) -> None: ...

    model, other = torch.nn.Sequential(Layer(), Layer()), Layer()
    handles = [convert_frame.register_bytecode_hook(layer.hook) for layer in (*model, model[0], other)]
    try:
        forget_compiled(model)
        assert [handle.id in convert_frame._bytecode_hooks for handle in handles] == [False, False, False, True]
    finally:
        for handle in handles:
            handle.remove()


def test_sleep_waking_and_end_have_deadlines(engine: VllmEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each call of vLLM is within a phase of the watchdog."""
    open_phases: list[tuple[str, float, str]] = []
    seen: list[tuple[str, list[tuple[str, float, str]]]] = []

    @contextmanager
    def phase(name: str, limit: float, setting: str) -> Iterator[None]:
        open_phases.append((name, limit, setting))
        yield
        open_phases.pop()

    def called(name: str) -> Callable[..., None]:
        return lambda *_, **__: seen.append((name, list(open_phases)))

    core = SimpleNamespace(shutdown=called("shutdown"))
    engine._llm = SimpleNamespace(
        sleep=called("sleep"),
        wake_up=lambda tags: called(f"wake_up {' '.join(tags)}")(),
        apply_model=called("apply_model"),
        llm_engine=SimpleNamespace(engine_core=core),
    )
    engine._watchdog = SimpleNamespace(phase=phase)
    monkeypatch.setattr(EngineLifecycle, "_living", 1)
    # Both import vLLM.
    monkeypatch.setattr(lifecycle, "engine_groups_kept", lambda keep: nullcontext())
    engine.platform.closed = lambda last: None  # type: ignore[method-assign]
    engine.sleep()
    engine.wake("weights")
    engine.close()  # wakes the rest, because sleeping memory cannot be freed
    assert [
        (name, [(limit, setting) for _, limit, setting in phases], "rollout engine" in phases[0][0])
        for name, phases in seen
    ] == [
        (name, [(600.0, "--sync-timeout-minutes 10")], True)
        for name in ("sleep", "wake_up weights", "wake_up kv_cache", "apply_model", "shutdown")
    ]


def test_bad_input_is_no_reason_to_restart() -> None:
    rank = Rank()
    with pytest.raises(BadInput, match="too long"):
        rank.ask(5, max_tokens=101)
    assert len(rank.engines) == 1


def test_all_ranks_restart_together_and_only_the_failed_one_asks_again() -> None:
    meeting, words = threading.Barrier(2), ["", ""]
    ranks: list[Rank] = [None, None]  # type: ignore[list-item]
    answers: list = [None, None]

    def play(number: int, *plans: set[str]) -> None:
        def exchange(own: str | None) -> list[str | None]:
            words[number] = own
            meeting.wait(10)
            all_words = list(words)
            meeting.wait(10)
            return all_words

        ranks[number] = Rank(*plans, exchange=exchange)
        answers[number] = [ranks[number].ask(10 + number), ranks[number].ask()]

    threads = [threading.Thread(target=play, args=args) for args in ((0,), (1, {"generate"}))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert answers == [[[[(10, 0)] * 2], []], [[[(11, 0)] * 2], []]]
    assert [len(rank.engines) for rank in ranks] == [2, 2]
