"""Ask a run's policy benchmark questions between steps."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from megatron_pz.config.schema import RunConfig
from megatron_pz.evaluation.benchmarks.asking import answer_parts, parts_of
from megatron_pz.evaluation.benchmarks.prompts import BenchmarkSettings, BenchmarkTokenizer, load_questions, prepare
from megatron_pz.evaluation.benchmarks.scores import strata
from megatron_pz.evaluation.benchmarks.store import write_table
from megatron_pz.question_answering.scores import aggregate
from megatron_pz.rollout.protocol import DecodingEngine
from megatron_pz.rollout.vllm_settings import require_ranks
from megatron_pz.run.inputs import tokenizer_dir
from megatron_pz.runtime.errors import BadInput
from megatron_pz.trainer.topology import Topology

FOLDER = "benchmarks"
"""Folder in the run's directory that keeps the answers, a file for each benchmark and evaluation."""


class TrainingBenchmarks:
    """A fixed slice of each benchmark, which all ranks' engines share."""

    def __init__(self, config: RunConfig, topology: Topology) -> None:
        """Read the questions and write their prompts.

        Raises:
            BadInput: the recipe, a benchmark or its files cannot be used, the model has no chat template, no prompt of
                a benchmark leaves room for a response, or the ranks cannot be divided among the engines.
        """
        training, self.topology = config.training, topology
        # Rollout ranks take the prompts of all trainer ranks and distribute them.
        self.ranks_per_engine = 1 if topology.rollout_ranks else config.rollout.rollout_tensor_parallel_size
        require_ranks(topology.world_size, self.ranks_per_engine)
        self.folder = Path(training.save) / FOLDER
        self.settings = BenchmarkSettings(
            training.benchmark_recipe,
            training.benchmark_prompt_format,
            training.benchmark_questions,
            training.benchmark_max_tokens,
        )
        loaded = load_questions(training.benchmarks, Path(training.benchmark_data), self.settings)
        prepared = prepare(loaded, BenchmarkTokenizer(tokenizer_dir(config.model)), self.settings)
        self.benchmarks = {each.name: each for each in prepared}
        context = config.rollout.max_prompt_length + config.rollout.max_response_length
        for each in prepared:
            too_long = sum(len(prompt.token_ids) >= context for prompt in each.prompts)
            limit = f"shorter than --max-prompt-length + --max-response-length, {context} tokens"
            if too_long == len(each.prompts):
                raise BadInput(
                    f"--benchmarks {each.name}: no prompt is {limit}; raise one of them, or leave the benchmark out"
                )
            if too_long and topology.rank == 0:
                many = f"{too_long} of {len(each.prompts)} prompts are"
                print(f"--benchmarks {each.name}: {many} not {limit}, and count as wrong", flush=True)
        engines = topology.world_size // self.ranks_per_engine
        self.parts = [
            part
            for each in prepared
            for part in parts_of(each, -(-len(each.questions) // engines) * each.protocol.samples)
        ]

    def evaluate(self, iteration: int, engine: DecodingEngine) -> dict[str, float]:
        """Ask all questions, store the answers, and return the scores by name, ``benchmark/…``. Collective."""
        mine = answer_parts(
            engine,
            self.benchmarks,
            self.parts,
            self.settings.seed,
            rank=self.topology.rank,
            world_size=self.topology.world_size,
            ranks_per_engine=self.ranks_per_engine,
        )
        shares = self.topology.all_gather_object([(part.benchmark, part.number, rows) for part, rows in mine])
        tables = sorted((part for share in shares for part in share), key=lambda part: part[:2])
        metrics: dict[str, float] = {}
        for name in self.benchmarks:
            answers = pa.concat_tables(rows for benchmark, _, rows in tables if benchmark == name)
            if self.topology.rank == 0:
                self.folder.mkdir(parents=True, exist_ok=True)
                write_table(self.folder / f"{name}-{iteration:07d}.parquet", answers)
            metrics |= self._metrics(name, answers)
        return metrics

    def _metrics(self, name: str, answers: pa.Table) -> dict[str, float]:
        accuracies = strata(answers)
        scores = aggregate(
            [subject for subject, values in accuracies.items() for _ in values],
            [float(value) for values in accuracies.values() for value in values],
        )
        return {
            f"benchmark/{name}": getattr(scores, self.benchmarks[name].protocol.headline),
            f"benchmark/{name}_unread": answers["extracted"].null_count / len(answers),
            f"benchmark/{name}_truncated": pc.mean(answers["truncated"].cast(pa.float64())).as_py(),
            f"benchmark/{name}_too_long": pc.mean(pc.invert(answers["asked"]).cast(pa.float64())).as_py(),
        }
