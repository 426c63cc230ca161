"""Whole runs in pytest's own process with the real loop, trainer and checkpoints, and scripted engines."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import re
import threading
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import pytest
import torch
import torch.distributed as dist
from megatron.core import parallel_state
from transformers import AutoTokenizer

from megatron_pz.config.question_schema import QuestionConfig
from megatron_pz.config.schema import (
    DataConfig,
    GameConfig,
    ModelConfig,
    OptimizerConfig,
    RolloutConfig,
    RunConfig,
    TrainingConfig,
)
from megatron_pz.rl.experience import Decoding, Response, SampleRequest
from megatron_pz.rollout import fault_tolerance as restarting
from megatron_pz.rollout.ranks.rendezvous import RendezvousClient, settled_config, tell_host
from megatron_pz.rollout.requests import FollowUp
from megatron_pz.run import rollout_objective, rollout_rank
from megatron_pz.run.objective import MakeObjective, Schedule
from megatron_pz.run.pretrain_zero import PretrainZeroObjective
from megatron_pz.run.rollout_objective import RolloutObjective
from megatron_pz.run.run import Run
from megatron_pz.runtime.watchdog import Watchdog
from megatron_pz.trainer.topology import Topology
from tests.conftest import MIXTURE_CHOSEN, MIXTURE_EXPERTS, MIXTURE_LAYERS
from tests.support.interrupted_run import without_steps
from tests.support.tiny_corpus import PASSAGES


class ScriptedEngine:
    """Plays all roles at random by each prompt's seed: masks a word of the passage, solves half of the masks,
    and half of the requested sums ("Question: 3 + 4").

    The weights from :func:`load_weights` are stored, so that a test can check from which ones it would have sampled.
    """

    started: ClassVar[list[ScriptedEngine]] = []
    backwards: ClassVar[bool] = False
    """Requests end in the opposite order."""

    def __init__(
        self,
        model_dir: str | Path,
        rollout: RolloutConfig,
        *,
        seed: int,
        colocated: bool,
        watchdog: Watchdog,
        tokenizer_dir: str,
        read_weights: bool,
        return_experts: bool,
    ) -> None:
        assert colocated and not read_weights
        self.tokenizer = AutoTokenizer.from_pretrained(tokenizer_dir or model_dir)
        self.rollout = rollout
        self.returns_experts = return_experts
        self.weights: dict[str, torch.Tensor] = {}
        self.prompts: list[str] = []
        self.calls: list[str] = []
        """What was asked of it, in order."""
        self.limits: set[int] = set()
        """Tokens that its calls allowed."""
        self.closed = False
        ScriptedEngine.started.append(self)

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        n: int,
        *,
        seeds: Sequence[int],
        max_tokens: int,
        stop: Sequence[str],
        decoding: Decoding | None = None,
    ) -> list[list[Response]]:
        self.calls.append("generate")
        self.limits.add(max_tokens)
        texts = [self.tokenizer.decode(prompt) for prompt in prompts]
        self.prompts += texts
        draws = [random.Random(seed) for seed in seeds]
        if decoding is not None:
            return [[self._guess(draw) for _ in range(n)] for draw in draws]
        return [[self._respond(text, draw) for _ in range(n)] for text, draw in zip(texts, draws, strict=True)]

    def answer(
        self, requests: Sequence[SampleRequest], *, stop: Sequence[str], then: FollowUp
    ) -> dict[Hashable, list[Response]]:
        """Answer the requests in order, and their follow-ups after them, as :meth:`generate` would."""
        waiting, answers = list(requests), {}
        while waiting:
            request = waiting.pop(-1 if self.backwards else 0)
            (group,) = self.generate(
                [request.prompt_ids],
                request.samples.stop,
                seeds=[request.seed],
                max_tokens=request.max_tokens,
                stop=stop,
            )
            answers[request.key] = group[request.samples.start :]
            waiting += then(request.key, answers)
        return answers

    def _respond(self, prompt: str, draw: random.Random) -> Response:
        if not prompt.startswith(("Question:", "Paragraph:", "Passage:")):
            return self._guess(draw)
        passage = prompt.split("\n")[0].split(": ", 1)[1]
        if prompt.startswith("Question:"):
            terms = re.sub(r"(\d+) ([+-]) (\d+)", r"\1 \2\3", passage)
            right = sum(int(term) for term in re.findall(r"[+-]?\d+", terms))
            text = f" \\boxed{{{draw.choice([right, 'nothing'])}}}"
        elif prompt.startswith("Paragraph:"):
            text = f" \\mask{{{draw.choice(passage.rstrip('.').replace(',', '').split())}}}"
        else:
            text = f" \\boxed{{{draw.choice([answer(passage), 'nothing'])}}}"
        token_ids = tuple(self.tokenizer.encode(text, add_special_tokens=False))
        response = Response(token_ids, tuple(-draw.uniform(0.0, 2.0) for _ in token_ids), text, truncated=False)
        return self._routed(prompt, response) if self.returns_experts else response

    def _routed(self, prompt: str, response: Response) -> Response:
        """Add expert ids, those of the mixture in ``tests/conftest.py``; a prompt's are the same in all responses."""

        def ids(draw: random.Random, tokens: int) -> bytes:
            rows = (draw.sample(range(MIXTURE_EXPERTS), MIXTURE_CHOSEN) for _ in range(tokens * MIXTURE_LAYERS))
            return bytes(expert for row in rows for expert in row)

        prompt_ids = self.tokenizer.encode(prompt, add_special_tokens=False)
        own = random.Random(f"{prompt} {response.text} {response.log_probs}")
        return dataclasses.replace(
            response,
            prompt_experts=ids(random.Random(prompt), len(prompt_ids)),
            experts=ids(own, len(response.token_ids) - 1),
        )

    @property
    def context(self) -> int:
        return self.rollout.max_prompt_length + self.rollout.max_response_length

    def _guess(self, draw: random.Random) -> Response:
        text = f"The answer is \\boxed{{{draw.choice('ABCD')}}}."
        return Response((1, 2), (-0.5, -0.5), text, truncated=False)

    def sleep(self) -> None:
        self.calls.append("sleep")

    def wake(self, *parts: str) -> None:
        self.calls.append(f"wake {' '.join(parts)}")

    def healthy(self) -> bool:
        return True

    def close(self) -> None:
        self.closed = True


def answer(masked: str) -> str:
    """Return the hidden words, found by comparison with the passages."""
    before, after = masked.split("[mask]", 1)
    (passage,) = (each for each in PASSAGES if each.startswith(before) and each.endswith(after))
    return passage[len(before) : len(passage) - len(after)]


def load_weights(engine: ScriptedEngine, stream: Iterator[tuple[str, torch.Tensor]]) -> None:
    """Replace the function of the rollout package."""
    engine.calls.append("load_weights")
    engine.weights = {name: tensor.detach().clone() for name, tensor in stream}


def require_log_prob_semantics(engine: ScriptedEngine) -> None:
    """Replace the check of the rollout package, which needs weights that the trainer has sent."""
    assert engine.calls == ["load_weights"] and engine.weights


def script_engines(monkeypatch: pytest.MonkeyPatch) -> type[ScriptedEngine]:
    """Make runs start these engines instead of vLLM's; the fixture ``scripted_engines`` does this for a test."""
    monkeypatch.setattr(ScriptedEngine, "started", [])
    for module in (rollout_objective, rollout_rank):
        monkeypatch.setattr(module, "VllmEngine", ScriptedEngine)
        monkeypatch.setattr(module, "require_log_prob_semantics", require_log_prob_semantics)
    monkeypatch.setattr(restarting, "load_weights", load_weights)
    return ScriptedEngine


def run_config(model: Path, corpus: str, save: Path) -> RunConfig:
    """Return a configuration of four steps with two passages each, in float32, and a checkpoint every two steps."""
    return RunConfig(
        model=ModelConfig(hf_model=str(model), bf16=False),
        data=DataConfig(data_path=(corpus,)),
        game=GameConfig(
            prompt_family="quote",
            passages_per_step=2,
            masks_per_passage=3,
            grpo_group_size=3,
            span_policy="one_mask",
            whole_words=True,
        ),
        rollout=RolloutConfig(max_prompt_length=200, max_response_length=24, max_log_prob_difference=100.0),
        optimizer=OptimizerConfig(lr=1e-3, lr_decay_style="constant"),
        training=TrainingConfig(train_iters=4, micro_batch_tokens=600, save_interval=2, save=str(save)),
    )


def question_config(model: Path, save: Path, questions: Path, held_out: Path) -> RunConfig:
    """Return a configuration like :func:`run_config` of four steps with four sums each; write both files."""
    for path, first in ((questions, 1), (held_out, 11)):
        sums = ({"question": f"{a} + {b}", "answer": a + b} for a in range(first, first + 4) for b in (2, 5))
        path.write_text("".join(json.dumps(each) + "\n" for each in sums))
    config = run_config(model, "", save)
    return dataclasses.replace(
        config,
        data=DataConfig(),
        questions=QuestionConfig(
            question_path=(str(questions),),
            valid_question_path=(str(held_out),),
            grader="number",
            question_template="short",
            questions_per_step=4,
            eval_samples=3,
        ),
        training=dataclasses.replace(config.training, eval_interval=2),
    )


def with_fields(config: RunConfig, **sections: dict[str, Any]) -> RunConfig:
    """Return the configuration with some fields of some sections replaced."""
    changed = {name: dataclasses.replace(getattr(config, name), **fields) for name, fields in sections.items()}
    return dataclasses.replace(config, **changed)


def evaluated(config: RunConfig) -> RunConfig:
    """Return the configuration with an evaluation of two passages after each step."""
    data = {"valid_data_path": config.data.data_path}
    return with_fields(config, data=data, training={"eval_interval": 1, "eval_passages": 2})


@contextmanager
def started_run(
    config: RunConfig, objective: MakeObjective = PretrainZeroObjective, *, threads: bool = True
) -> Iterator[Run]:
    """Yield a run that is closed after the block; process groups that remain after a failure are destroyed.

    Rollout ranks of the configuration are threads of this process, or with ``threads=False`` processes.
    """
    ranks = config.rollout.rollout_ranks
    try:
        with ExitStack() as stack:
            if ranks and threads:
                stack.enter_context(rollout_rank_threads(config))
            watchdog = stack.enter_context(Watchdog(3600.0))
            run = Run(config, Schedule.from_config(config.training), objective, watchdog, ranks)
            yield run
            run.close()
    finally:
        if dist.is_initialized():
            parallel_state.destroy_model_parallel()
            dist.destroy_process_group()


class ThreadTopology(Topology):
    """A group whose ranks are threads of this process."""

    barrier_of_threads: threading.Barrier
    slots: list[Any]

    @classmethod
    def of_threads(cls, number: int) -> list[ThreadTopology]:
        barrier, slots = threading.Barrier(number), [None] * number
        topologies = []
        for rank in range(number):
            topology = cls(rank, number, 0, 1, 0, 1, rank, number, 0, 1, torch.device("cpu"))
            object.__setattr__(topology, "barrier_of_threads", barrier)
            object.__setattr__(topology, "slots", slots)
            topologies.append(topology)
        return topologies

    def all_gather_object(self, value: Any) -> list[Any]:
        self.slots[self.rank] = value
        self.barrier_of_threads.wait(60)
        values = list(self.slots)
        self.barrier_of_threads.wait(60)
        return values

    def all_to_all_object(self, values: Sequence[Any]) -> list[Any]:
        return [sent[self.rank] for sent in self.all_gather_object(values)]

    def close(self) -> None:
        """Do nothing: the process group belongs to the run."""


@contextmanager
def rollout_rank_threads(config: RunConfig) -> Iterator[None]:
    """Yield the rollout ranks of a job whose only other process is this one."""
    number = config.rollout.rollout_ranks
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    variables = {
        "RANK": "0",
        "WORLD_SIZE": str(1 + number),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }
    failures: list[BaseException] = []

    def lost() -> NoReturn:
        raise SystemExit  # this thread only

    def serve(topology: ThreadTopology) -> None:
        try:
            own = store.clone()
            settled = settled_config(own)
            client = RendezvousClient(own, topology.rank)
            tell_host(own, topology.rank, "this one")
            served = rollout_rank.RolloutRank(settled, topology, Watchdog(3600.0), client.connect, lost)
            served.serve()
            served.close()
        except BaseException as failure:
            failures.append(failure)
            topology.barrier_of_threads.abort()
            raise

    before = {name: os.environ.get(name) for name in variables}
    os.environ |= variables
    threads = [threading.Thread(target=serve, args=[each], daemon=True) for each in ThreadTopology.of_threads(number)]
    try:
        for thread in threads:
            thread.start()
        yield
        for thread in threads:
            thread.join(30)
        assert not failures and not any(thread.is_alive() for thread in threads)
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def run_to_the_end(
    config: RunConfig, objective: MakeObjective = PretrainZeroObjective
) -> tuple[Run, list[dict[str, Any]]]:
    """Run all steps and close; return the run and the metrics of its folder, without times and memory."""
    with started_run(config, objective) as run:
        assert run.train()
    lines = (Path(config.training.save) / "metrics.jsonl").read_text().splitlines()
    return run, [without_times(json.loads(line)) for line in lines]


def steps_of_a_killed_run(config: RunConfig) -> list[dict[str, Any]]:
    """Return the metrics of a run; require that a run killed after the checkpoint of step 2 repeats it."""
    run, steps = run_to_the_end(config)
    before = weights_of(run)
    without_steps(Path(config.training.save), after=2)
    resumed, again = run_to_the_end(with_fields(config, training={"load": config.training.save}))
    assert again == steps
    after = weights_of(resumed)
    assert all(torch.equal(after[part][name], weight) for part in before for name, weight in before[part].items())
    return steps


def without_times(step: dict[str, Any]) -> dict[str, Any]:
    """Return the reproducible metrics of a step."""
    machine = ("time/", "memory/", "ahead/overlap")
    return {name: value for name, value in step.items() if not name.startswith(machine)}


def played(run: Run) -> PretrainZeroObjective:
    """Return the objective of a completed run by :func:`started_run`."""
    assert isinstance(run.objective, PretrainZeroObjective)
    return run.objective


def weights_of(run: Run) -> dict[str, Mapping[str, torch.Tensor]]:
    """Return every policy's weights by name, read by shard, because a closed run has no process groups."""
    assert isinstance(run.objective, RolloutObjective)
    return {
        learner.name: {name: weight.detach().clone() for name, weight in learner.policy.chunks[0].named_parameters()}
        for learner in run.objective.learners
    }
