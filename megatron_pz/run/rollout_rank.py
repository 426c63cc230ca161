"""Run a rollout rank: a process with engines and no trainer, which executes commands of the trainer's rank 0."""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
from collections.abc import Callable
from datetime import timedelta
from typing import Any, NoReturn

from megatron_pz.algorithm.overlapped import ExperienceMaker
from megatron_pz.algorithm.remote_engine import PROBE_RESPONSE
from megatron_pz.algorithm.rollouts import RolloutWorker
from megatron_pz.algorithm.work_shares import MeanLengths
from megatron_pz.config.schema import RunConfig
from megatron_pz.rl.experience import Response, Role
from megatron_pz.rl.statistics import GAME_ROLES
from megatron_pz.rollout.engine import VllmEngine
from megatron_pz.rollout.fault_tolerance import RestartingEngine
from megatron_pz.rollout.log_prob_semantics import require_log_prob_semantics
from megatron_pz.rollout.ranks.controller import CLOSE, EXPERIENCE, GENERATE, WEIGHTS
from megatron_pz.rollout.ranks.host_weights import ReceivedWeights
from megatron_pz.rollout.ranks.rendezvous import RendezvousClient, TrainerConnection, settled_config, tell_host
from megatron_pz.run.inputs import open_passages, open_tokenizer, tokenizer_dir
from megatron_pz.run.precision import require_machine
from megatron_pz.run.run_directory import this_host
from megatron_pz.run.signals import StopRequest
from megatron_pz.runtime.rank_monitor import detect
from megatron_pz.runtime.replacement import START_AGAIN, declare_replaceable
from megatron_pz.runtime.watchdog import Watchdog, is_of_a_collective
from megatron_pz.trainer.topology import Topology, meet_rollout_ranks, open_job_store, trainer_ranks

PROBE_SEED = 0


def is_rollout_rank(rollout_ranks: int) -> bool:
    """Return whether this process is one of the last ``rollout_ranks`` of the job."""
    return rollout_ranks > 0 and int(os.environ.get("RANK", "0")) >= trainer_ranks(rollout_ranks)


def serve_rollouts(config: RunConfig) -> None:
    """Sample for the trainer until the end of the run.

    If another rollout rank has died, their process group is broken. The process then ends with code
    :data:`START_AGAIN`, and ``megatron_pz.launch`` restarts all rollout ranks.
    """
    for number in StopRequest.SIGNALS:  # the trainer's ranks save a checkpoint and then end the rollout ranks
        signal.signal(number, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, StopRequest.SIGNALS)
    with Watchdog(60 * config.parallel.heartbeat_timeout_minutes, monitor=detect()) as watchdog:
        store = open_job_store(timedelta(minutes=config.parallel.distributed_timeout_minutes))
        rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        watchdog.watch(rank, world_size, store)
        config = settled_config(store)
        require_machine(config)
        client = RendezvousClient(store, rank - trainer_ranks(config.rollout.rollout_ranks))
        tell_host(store, client.rank, this_host())
        if client.round is None:  # an earlier process of this rank died at the end of the run
            return

        def start_again() -> NoReturn:
            watchdog.stop()
            os._exit(START_AGAIN)  # engines and process group may wait for a dead rank

        def leave_with_the_run() -> NoReturn:
            client.wait_until_over()
            watchdog.stop()
            sys.stdout.flush()
            os._exit(0)  # exit without the closing collectives, which would wait for a dead rank

        def connect(lost: Callable[[], NoReturn]) -> TrainerConnection:
            declare_replaceable()  # from here on the death of another rank may end this process
            return client.connect(lost)

        client.at_the_next_round(store, start_again)
        topology = meet_rollout_ranks(config.parallel, client.store, client.rank, config.rollout.rollout_ranks)
        serve_to_the_end(RolloutRank(config, topology, watchdog, connect, leave_with_the_run), leave_with_the_run)


def serve_to_the_end(served: RolloutRank, leave: Callable[[], NoReturn]) -> NoReturn:
    """Serve, end the engines and exit; also if another rollout rank has died, so that collectives fail."""
    try:
        served.serve()
        served.close()
    except Exception as error:
        if not is_of_a_collective(error):
            raise
        served.connection.close()  # closing the connection informs the trainer
    leave()


class RolloutRank:
    """The engines of this rank, and the handlers of its commands."""

    def __init__(
        self,
        config: RunConfig,
        topology: Topology,
        watchdog: Watchdog,
        connect: Callable[[Callable[[], NoReturn]], TrainerConnection],
        lost: Callable[[], NoReturn],
    ) -> None:
        """Start an engine for each policy, then connect to the trainer. Collective over the rollout ranks."""
        self.config, self.topology, self.watchdog = config, topology, watchdog
        tokenizer = open_tokenizer(config.model)
        passages = open_passages(config.data, config.model, config.game.passages_per_step)
        separate = config.game.policy_sharing == "separate"
        self.roles: dict[str, tuple[Role, ...]] = (
            {role: (role,) for role in GAME_ROLES} if separate else {"": GAME_ROLES}
        )
        """The roles of each policy, by its name."""
        self._started = {name: self._start() for name in self.roles}
        self.engines: dict[Role, RestartingEngine] = {}
        self.connection = connect(lost)
        self._weights = {name: ReceivedWeights(self.connection) for name in self.roles}
        worker = RolloutWorker(
            config.game, config.rollout, config.training.seed, tokenizer, self.engines, topology, MeanLengths()
        )
        self._maker = ExperienceMaker(config, worker, passages)

    def _start(self) -> VllmEngine:
        model, rollout = self.config.model, self.config.rollout
        rollout = dataclasses.replace(
            rollout,
            gpu_memory_utilization=rollout.gpu_memory_utilization / len(self.roles),
            sleep_during_update=False,  # no other process needs the memory
        )
        return VllmEngine(
            model.hf_model,
            rollout,
            seed=self.config.training.seed,
            colocated=True,
            watchdog=self.watchdog,
            tokenizer_dir=tokenizer_dir(model),
            read_weights=False,
            return_experts=model.moe_enable_routing_replay,
        )

    def serve(self) -> None:
        """Answer commands until the last one."""
        answers: dict[str, Callable[..., Any]] = {WEIGHTS: self.load, EXPERIENCE: self._make, GENERATE: self.generate}
        while True:
            command, *arguments = self.connection.recv()
            if command == CLOSE:
                return
            self.connection.send(answers[command](*arguments))

    def load(self, policy: str, path: str | None, prompts: list[list[int]]) -> list[Response]:
        """Load a policy's weights, and answer the prompts with them."""
        self._weights[policy].expect(path)
        first = self.roles[policy][0]
        if first in self.engines:
            self.engines[first].sync()
        else:
            started = [self._started.pop(policy)]
            engine = RestartingEngine(
                lambda: started.pop() if started else self._start(),
                self._weights[policy].stream,
                exchange=self.topology.all_gather_object,
                max_restarts=self.config.rollout.max_engine_restarts,
                check=require_log_prob_semantics,
            )
            self.engines |= dict.fromkeys(self.roles[policy], engine)
        most = min(PROBE_RESPONSE, self.config.rollout.max_response_length)
        seeds = [PROBE_SEED + self.topology.rank] * len(prompts)
        sampled = self.engines[first].generate(prompts, 1, seeds=seeds, max_tokens=most, stop=())
        return [response for (response,) in sampled]

    def _make(self, iteration: int, state: dict[str, Any]) -> dict[str, Any]:
        """Sample the experience of a step."""
        self.watchdog.step(f"iteration {iteration}")
        return self._maker.make(iteration, state)

    def generate(self, policy: str, prompts: list[list[int]], n: int, settings: dict[str, Any]) -> list[list[Response]]:
        """Sample for an evaluation."""
        return self.engines[self.roles[policy][0]].generate(prompts, n, **settings)

    def close(self) -> None:
        """End the engines."""
        for engine in dict.fromkeys(self.engines.values()):
            engine.close()
