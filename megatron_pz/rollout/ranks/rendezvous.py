"""Connect the rollout ranks with each other and the trainer's rank 0, again whenever a rank has died.

The store of the job holds the address of the trainer's rank 0, a secret, the settled configuration, and the number of
the current *round* of the rendezvous. All rollout ranks of a round share one process group. When one of them dies, the
next round begins, which all ranks join as new processes.
"""

from __future__ import annotations

import base64
import contextlib
import hmac
import ipaddress
import json
import os
import pickle
import secrets
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, NoReturn, TypeVar

import torch.distributed as dist

from megatron_pz.config.schema import RunConfig
from megatron_pz.rollout.ranks.host_weights import this_node
from megatron_pz.runtime.errors import ExpectedFailure, one_line

Received = TypeVar("Received")

_CONFIG, _ADDRESS, _ROUND = "config", "address", "round"
_OVER = "over"
"""Replaces the number of the round after the end of the run."""
_TOKEN_BYTES = 32
_IDENTIFY_SECONDS = 10.0
"""Time for a connecting process to identify itself."""
_POLL = 0.5
"""Polling interval of the store in seconds."""


def shared_place(store: dist.Store) -> dist.PrefixStore:
    """Return the part of the job's store for this attempt; some launchers restart jobs in place."""
    return dist.PrefixStore(f"rollout ranks {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)


def publish_config(store: dist.Store, config: RunConfig) -> None:
    """Publish the settled configuration for the rollout ranks."""
    shared_place(store).set(_CONFIG, base64.b64encode(pickle.dumps(config)).decode("ascii"))


def tell_host(store: dist.Store, rank: int, host: str) -> None:
    """Publish the host on which a rollout rank runs."""
    shared_place(store).set(f"host {rank}", host)


def hosts(store: dist.Store, ranks: int) -> list[str]:
    """Return the hosts of all rollout ranks once they are published."""
    return [shared_place(store).get(f"host {rank}").decode() for rank in range(ranks)]


def settled_config(store: dist.Store) -> RunConfig:
    """Wait for the configuration that the trainer's rank 0 has settled."""
    config: RunConfig = pickle.loads(base64.b64decode(shared_place(store).get(_CONFIG)))
    return config


@dataclass
class Channel:
    """Connection of the trainer's rank 0 to one rollout rank."""

    rank: int
    """Position among the rollout ranks."""
    connection: Connection
    local: bool
    """Both run on one node."""


class RendezvousServer:
    """The trainer's rank 0, to which rollout ranks connect."""

    def __init__(self, store: dist.Store, ranks: int) -> None:
        """Listen on a port that the system picks, on all addresses of this host if the job has several nodes."""
        self._place, self._ranks = shared_place(store), ranks
        self._token = secrets.token_bytes(_TOKEN_BYTES)
        host = os.environ["MASTER_ADDR"]
        self._server = _listen(host, ranks)
        self._round = 0
        port = self._server.getsockname()[1]
        self._place.set(_ADDRESS, json.dumps([host, port, self._token.hex()]))

    def begin_round(self) -> list[Channel]:
        """Begin the next round, and wait until all rollout ranks have started their engines and connected."""
        self._round += 1
        self._place.set(_ROUND, str(self._round))
        channels: dict[int, Channel] = {}
        while len(channels) < self._ranks:
            sock, _ = self._server.accept()
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            _limit_reads(sock, _IDENTIFY_SECONDS)
            connection = Connection(os.dup(sock.fileno()))
            hello = self._hello(connection)
            _limit_reads(sock, 0)
            sock.close()
            if hello is None or hello["round"] != self._round:
                connection.close()
                continue
            channels[hello["rank"]] = Channel(hello["rank"], connection, hello["node"] == this_node())
        return [channels[rank] for rank in sorted(channels)]

    def _hello(self, connection: Connection) -> dict[str, Any] | None:
        """Read the identity of a connecting process; return None if it does not belong to this job."""
        with contextlib.suppress(EOFError, OSError):
            if hmac.compare_digest(connection.recv_bytes(_TOKEN_BYTES), self._token):
                hello: dict[str, Any] = json.loads(connection.recv_bytes())
                return hello
        return None

    def close(self) -> None:
        """Stop listening, and tell ranks that wait for another round that there is none."""
        self._place.set(_ROUND, _OVER)
        self._server.close()


def _listen(host: str, ranks: int) -> socket.socket:
    """Listen on all addresses, unless the job has one node and its address is local.

    The host name often resolves to a loopback address, which other hosts cannot reach.
    """
    family, *_, address = socket.getaddrinfo(host, None)[0]
    one_node = os.environ.get("LOCAL_WORLD_SIZE") == os.environ.get("WORLD_SIZE")
    if one_node and ipaddress.ip_address(address[0]).is_loopback:
        return socket.create_server((host, 0), family=family, backlog=ranks)
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", 0), family=socket.AF_INET6, backlog=ranks, dualstack_ipv6=True)
    return socket.create_server(("", 0), backlog=ranks)


def _limit_reads(sock: socket.socket, seconds: float) -> None:
    """Set the timeout of reads; 0 disables it."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", int(seconds), 0))


class RendezvousClient:
    """A rollout rank in one round of the rendezvous."""

    def __init__(self, store: dist.Store, rank: int) -> None:
        """Find the current round. If an earlier process of this rank has joined it, wait for the next one."""
        self.rank, self._place = rank, shared_place(store)
        self.round = next_round(self._place)
        """Its number; None if the run is over."""
        while self.round is not None and self._place.add(f"{self.round}.{rank}", 1) > 1:
            self.round = next_round(self._place, self.round)

    @property
    def store(self) -> dist.Store:
        """Return the store in which the ranks of this round make their process group."""
        return dist.PrefixStore(str(self.round), self._place)

    def connect(self, lost: Callable[[], NoReturn]) -> TrainerConnection:
        """Connect to the trainer's rank 0 once this rank is ready. For ``lost`` see :class:`TrainerConnection`."""
        host, port, token = json.loads(self._place.get(_ADDRESS))
        try:
            sock = socket.create_connection((host, port))
        except OSError as error:
            raise ExpectedFailure(
                f"rollout rank {self.rank} on {socket.gethostname()} does not reach the trainer's rank 0 at "
                f"{host}:{port} ({one_line(error)}): make sure that nodes reach each other on any port"
            ) from None
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = Connection(sock.detach())
        connection.send_bytes(bytes.fromhex(token))
        connection.send_bytes(json.dumps({"round": self.round, "rank": self.rank, "node": this_node()}).encode())
        return TrainerConnection(connection, lost)

    def wait_until_over(self) -> None:
        """Wait for the end of the run. A new round before that ends the process (:meth:`at_the_next_round`)."""
        number = self.round
        with contextlib.suppress(dist.DistError):  # the store ends with the job
            while number is not None:
                number = next_round(self._place, number)

    def at_the_next_round(self, store: dist.Store, act: Callable[[], None]) -> None:
        """Call ``act`` as soon as another round begins, in a thread, because an engine may block the main thread."""
        assert self.round is not None
        number: int = self.round

        def wait() -> None:
            with contextlib.suppress(dist.DistError):  # the store ends with the job
                if next_round(own, number) is not None:
                    act()

        connection: Any = store  # a TCPStore; its type stubs lack this method
        own = shared_place(connection.clone())
        threading.Thread(target=wait, name="next round", daemon=True).start()


def next_round(place: dist.Store, number: int = 0) -> int | None:
    """Wait until the next round has begun and return its number, or return None if the run is over."""
    while (now := place.get(_ROUND).decode()) == str(number):
        time.sleep(_POLL)
    return None if now == _OVER else int(now)


def read_into(connection: Connection, target: memoryview) -> None:
    """Fill memory from a connection. Raise EOFError if the connection ends early."""
    while target:
        count = os.readv(connection.fileno(), [target])
        if not count:
            raise EOFError
        target = target[count:]


class TrainerConnection:
    """A rollout rank's connection to the trainer's rank 0."""

    def __init__(self, connection: Connection, lost: Callable[[], NoReturn]) -> None:
        """
        Keep the connection.

        Args:
            lost: called when the connection breaks. It does not return, so that an interrupted weight update is not
                mistaken for a broken engine.
        """
        self._connection, self._lost = connection, lost

    def send(self, answer: Any) -> None:
        """Send any picklable object."""
        self._guarded(lambda: self._connection.send(answer))

    def recv(self) -> Any:
        """Wait for an object from the trainer."""
        return self._guarded(self._connection.recv)

    def recv_raw(self, target: memoryview) -> None:
        """Wait for unframed bytes from the trainer, until the target is full."""
        self._guarded(lambda: read_into(self._connection, target))

    def close(self) -> None:
        """Tell the trainer that this rank has finished."""
        self._connection.close()

    def _guarded(self, work: Callable[[], Received]) -> Received:
        try:
            return work()
        except (EOFError, OSError):
            self._connection.close()
            self._lost()
