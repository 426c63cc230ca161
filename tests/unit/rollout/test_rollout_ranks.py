"""Communication of the trainer's rank 0 with rollout ranks, which are threads: weights, commands, and a failure."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any, NoReturn

import pytest
import torch
import torch.distributed as dist

from megatron_pz.config.schema import RolloutConfig, RunConfig
from megatron_pz.rollout.fault_tolerance import TooManyEngineFailures
from megatron_pz.rollout.ranks import host_weights, rendezvous
from megatron_pz.rollout.ranks.controller import CLOSE, GENERATE, WEIGHTS, RolloutController
from megatron_pz.rollout.ranks.host_weights import Bucket, HostWeights, ReceivedWeights
from megatron_pz.rollout.ranks.rendezvous import (
    RendezvousClient,
    RendezvousServer,
    TrainerConnection,
    next_round,
    publish_config,
    settled_config,
    shared_place,
)
from megatron_pz.runtime.errors import ExpectedFailure

Named = list[tuple[str, torch.Tensor]]


@pytest.fixture(autouse=True)
def small_buckets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_weights, "BUCKET_BYTES", 4096)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")


def some_weights(seed: int, dtype: torch.dtype = torch.float32) -> Named:
    """Return tensors of odd sizes, of which some share a bucket of 4096 bytes, and the last needs a larger one."""
    generator = torch.Generator().manual_seed(seed)
    sizes = ((3, 5), (700,), (1,), (33, 7), (5000,))
    return [(f"t{number}", torch.randn(size, generator=generator).to(dtype)) for number, size in enumerate(sizes)]


def equal(one: Named, other: Named) -> bool:
    return [name for name, _ in one] == [name for name, _ in other] and all(
        torch.equal(a, b) and a.dtype == b.dtype for (_, a), (_, b) in zip(one, other, strict=True)
    )


@pytest.mark.parametrize("local", [True, False])
def test_weights_arrive_bucket_by_bucket_and_can_be_read_again(local: bool) -> None:
    here, there = Pipe()
    sent, received = HostWeights(), ReceivedWeights(TrainerConnection(there, lambda: pytest.fail("lost")))
    for seed, dtype in ((1, torch.float32), (2, torch.float32), (3, torch.bfloat16)):
        weights = some_weights(seed, dtype)
        received.expect(sent.path if local else None)
        reader = ThreadPoolExecutor(1).submit(lambda: [(name, tensor.clone()) for name, tensor in received.stream()])
        buckets = 0
        for bucket in sent.write(iter(weights)):
            sent.send(bucket, here, local=local)
            buckets += 1
        here.send(None)
        assert buckets > 1
        assert equal(reader.result(10), weights)
        assert equal(list(received.stream()), weights)
    sent.close()


def test_a_reader_that_gives_up_leaves_no_bucket_behind() -> None:
    here, pipe = Pipe()
    there = TrainerConnection(pipe, lambda: pytest.fail("lost"))
    sent, received = HostWeights(), ReceivedWeights(there)
    received.expect(sent.path)
    for bucket in sent.write(iter(some_weights(1))):
        sent.send(bucket, here, local=True)
    here.send(None)
    here.send("the next command")
    stream = received.stream()
    next(stream)
    stream.close()
    assert there.recv() == "the next command"
    assert equal(list(received.stream()), some_weights(1))
    sent.close()


def test_memory_is_used_again() -> None:
    sent = HostWeights()
    first = [(bucket.offset, bucket.size) for bucket in sent.write(iter(some_weights(1)))]
    assert [(bucket.offset, bucket.size) for bucket in sent.write(iter(some_weights(2)))] == first
    sent.close()


class Broken(Exception):
    """Raised instead of the end of a process."""


class FakeRank(threading.Thread):
    """A rollout rank without engines that returns its rank and the request, and dies once on request."""

    deaths: set[int]

    def __init__(self, store: dist.TCPStore, rank: int, log: list[tuple[int, str]], deaths: set[int]) -> None:
        super().__init__(daemon=True)
        # A client's calls are mutually exclusive, and some wait.
        self.store, self.rank, self.log, self.deaths = store.clone(), rank, log, deaths
        self.start()

    def run(self) -> None:
        with contextlib.suppress(SystemExit):
            self.serve()

    def serve(self) -> None:
        def lost() -> NoReturn:
            try:
                if next_round(shared_place(self.store), client.round or 0) is None:
                    raise SystemExit
            except dist.DistError:  # the test is over, and its store is closed
                raise SystemExit from None
            raise Broken

        while True:
            client = RendezvousClient(self.store, self.rank)
            if client.round is None:
                return
            connection = client.connect(lost)
            weights = ReceivedWeights(connection)
            with contextlib.suppress(Broken):
                while True:
                    command, *arguments = connection.recv()
                    self.log.append((self.rank, command))
                    if command == CLOSE:
                        return
                    if command == WEIGHTS:
                        weights.expect(arguments[1])
                        total = sum(float(tensor.sum()) for _, tensor in weights.stream())
                        connection.send((arguments[0], arguments[2], total))
                        continue
                    if self.rank in self.deaths and arguments[0] == "deadly":
                        self.deaths.discard(self.rank)
                        connection.close()
                        lost()
                    total = sum(float(tensor.sum()) for _, tensor in weights.stream())
                    connection.send((self.rank, *arguments, total))


@pytest.fixture
def store() -> Iterator[dist.TCPStore]:
    yield dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)


def controller_of(store: dist.Store, ranks: int, restarts: int = 1) -> RolloutController:
    return RolloutController(store, ranks, 2, restarts, lambda *_: nullcontext())


def total_of(weights: Named) -> float:
    return sum(float(tensor.sum()) for _, tensor in weights)


def test_commands_reach_every_rank_and_answers_keep_their_order(store: dist.TCPStore) -> None:
    log: list[tuple[int, str]] = []
    for rank in (2, 0, 1):
        FakeRank(store, rank, log, set())
    controller = controller_of(store, 3)
    answers = controller.load("", iter(some_weights(1)), "probe")
    assert answers == [("", "probe", total_of(some_weights(1)))] * 3
    controller.start([(GENERATE, number) for number in (10, 11, 12)])
    assert [answer[:2] for answer in controller.finish()] == [(0, 10), (1, 11), (2, 12)]
    controller.close()


def test_after_a_death_all_ranks_get_their_weights_and_the_command_again(store: dist.TCPStore) -> None:
    log: list[tuple[int, str]] = []
    deaths = {1}
    for rank in (0, 1):
        FakeRank(store, rank, log, deaths)
    controller = controller_of(store, 2)
    controller.load("", iter(some_weights(1)), "probe")
    weights = total_of(some_weights(1))
    assert controller.ask([(GENERATE, "deadly")] * 2) == [(0, "deadly", weights), (1, "deadly", weights)]
    assert controller.restarts == 1
    deaths.add(0)
    with pytest.raises(TooManyEngineFailures, match=r"rank 2 has ended .* after 1 restarts of the rollout ranks"):
        controller.ask([(GENERATE, "deadly")] * 2)
    controller.close()


def test_weights_are_read_to_their_end_though_a_rank_is_lost(store: dist.TCPStore) -> None:
    """The other ranks of the trainer wait in the stream's collectives."""
    FakeRank(store, 0, [], set())
    controller = controller_of(store, 1)
    controller.load("", iter(some_weights(1)), None)
    read: list[str] = []

    def stream() -> Iterator[tuple[str, torch.Tensor]]:
        for name, tensor in some_weights(2):
            if not read:
                controller._channels[0].connection.close()
            read.append(name)
            yield name, tensor

    assert controller.load("", stream(), None) == [("", None, total_of(some_weights(2)))]
    assert len(read) == 5 and controller.restarts == 1
    controller.close()


def test_a_start_during_a_weight_sync_has_its_own_limit(store: dist.TCPStore) -> None:
    FakeRank(store, 0, [], set())
    entered: list[str] = []
    open_blocks: list[str] = []

    @contextlib.contextmanager
    def limited(phase: str, setting: str, factor: int) -> Iterator[None]:
        entered.append(f"{len(open_blocks)} {phase}: {factor} {setting}")
        open_blocks.append(phase)
        yield
        open_blocks.pop()

    controller = RolloutController(store, 1, 2, 1, limited, policies=2)
    controller._channels[0].connection.close()
    controller.load("", iter(some_weights(1)), None)
    assert controller.restarts == 1
    start = "0 the start of the rollout ranks: 3 sync_timeout_minutes"
    assert entered == [start, "0 the weight sync: 1 sync_timeout_minutes", start]
    controller.close()


def test_a_stranger_is_not_let_in(store: dist.TCPStore) -> None:
    server = RendezvousServer(store, 1)
    met: list[Any] = []
    thread = threading.Thread(target=lambda: met.append(server.begin_round()))
    thread.start()
    port = server._server.getsockname()[1]
    for words in (b"x" * 32, b"short", b"y" * 500):
        stranger = Connection(socket.create_connection(("127.0.0.1", port)).detach())
        stranger.send_bytes(words)
        with pytest.raises((EOFError, OSError)):
            stranger.recv()
    RendezvousClient(store.clone(), 0).connect(lambda: pytest.fail("lost"))
    thread.join(10)
    assert [channel.rank for channel in met[0]] == [0] and met[0][0].local
    server.close()


def test_a_stranger_that_stops_in_the_middle_of_a_word_keeps_nobody_waiting(
    store: dist.TCPStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rendezvous, "_IDENTIFY_SECONDS", 1)
    server = RendezvousServer(store, 1)
    thread = threading.Thread(target=server.begin_round, daemon=True)
    thread.start()
    with socket.create_connection(server._server.getsockname()[:2]) as stranger:
        stranger.sendall(b"GE")
        RendezvousClient(store.clone(), 0).connect(lambda: pytest.fail("lost"))
        thread.join(10)
        assert not thread.is_alive()
    server.close()


@pytest.mark.parametrize(("of_node", "open_to_all"), [("3", False), ("1", True)])
def test_a_job_of_several_nodes_is_reached_where_the_host_has_its_name_on_a_loopback_address(
    of_node: str, open_to_all: bool, store: dist.TCPStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", of_node)
    server = RendezvousServer(store, 1)
    address = server._server.getsockname()[0]
    assert address in ("::", "0.0.0.0") if open_to_all else address == "127.0.0.1"
    thread = threading.Thread(target=server.begin_round, daemon=True)
    thread.start()
    RendezvousClient(store.clone(), 0).connect(lambda: pytest.fail("lost"))  # also by IPv4
    thread.join(10)
    assert not thread.is_alive()
    server.close()


def test_a_trainer_that_cannot_be_reached_is_one_line(store: dist.TCPStore) -> None:
    server = RendezvousServer(store, 1)
    shared_place(store).set("round", "1")
    client = RendezvousClient(store.clone(), 0)
    server._server.close()
    with pytest.raises(ExpectedFailure, match=r"rollout rank 0 on .* does not reach the trainer's rank 0 at 127"):
        client.connect(lambda: pytest.fail("lost"))


def test_a_rank_that_joined_a_round_before_waits_for_the_next(store: dist.TCPStore) -> None:
    place = shared_place(store)
    place.set("round", "1")
    assert RendezvousClient(store, 0).round == 1
    found: list[int | None] = []
    thread = threading.Thread(target=lambda: found.append(RendezvousClient(store.clone(), 0).round))
    thread.start()
    assert not found
    place.set("round", "2")
    thread.join(10)
    assert found == [2]
    place.set("round", "over")
    assert RendezvousClient(store.clone(), 0).round is None


def test_the_end_of_a_run_reaches_ranks_whose_connection_broke_after_their_last_answer(store: dist.TCPStore) -> None:
    """This includes the replacement of a dead rank; otherwise the job would never end."""
    ranks = [FakeRank(store, rank, [], set()) for rank in (0, 1)]
    controller = controller_of(store, 2)
    controller.load("", iter(some_weights(1)), None)
    controller._channels[0].connection.close()
    again = FakeRank(store, 1, [], set())
    controller.close()
    for rank in (*ranks, again):
        rank.join(10)
        assert not rank.is_alive()


def test_the_end_of_the_store_is_the_end_of_the_run(store: dist.TCPStore, monkeypatch: pytest.MonkeyPatch) -> None:
    shared_place(store).set("round", "1")
    client = RendezvousClient(store.clone(), 0)

    def gone(*_: Any) -> NoReturn:
        raise dist.DistNetworkError("connection reset by peer")

    monkeypatch.setattr(rendezvous, "next_round", gone)
    client.wait_until_over()


def test_rollout_ranks_learn_the_settled_configuration(store: dist.TCPStore) -> None:
    config = RunConfig(rollout=RolloutConfig(rollout_ranks=3, rollout_dtype="float32"))
    publish_config(store, config)
    assert settled_config(store) == config


def test_an_empty_bucket_takes_what_fits() -> None:
    bucket = Bucket(0, 0, 64)
    assert bucket.place("a", torch.zeros(3)) and bucket.used == 12
    assert bucket.place("b", torch.zeros(1)) is None
