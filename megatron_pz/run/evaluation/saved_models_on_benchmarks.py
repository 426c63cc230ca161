"""Evaluate saved models on benchmarks: ask missing questions, store every answer, score, and compare."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch.distributed as dist

from megatron_pz.config.schema import RolloutConfig
from megatron_pz.corpus.passages import open_blend
from megatron_pz.evaluation.benchmarks.asking import Part, answer_parts, parts_of
from megatron_pz.evaluation.benchmarks.comparison import compare_in_turn, save_comparisons
from megatron_pz.evaluation.benchmarks.contamination import WORDS, Contamination, QuestionIndex
from megatron_pz.evaluation.benchmarks.prompts import (
    BenchmarkSettings,
    BenchmarkTokenizer,
    LoadedBenchmark,
    PreparedBenchmark,
    load_questions,
    prepare,
)
from megatron_pz.evaluation.benchmarks.scores import RESULTS_FILE, BenchmarkScore, ModelScores, score
from megatron_pz.evaluation.benchmarks.store import AnswerStore
from megatron_pz.reports.benchmark_text import results_text
from megatron_pz.rollout.engine import VllmEngine
from megatron_pz.run.evaluation.served_models import ServedModel, corpus_tokenizer_dir, engines_in_turn
from megatron_pz.run.work_progress import WorkProgress
from megatron_pz.runtime.errors import BadInput
from megatron_pz.runtime.files import claimed_directory, write_text_whole
from megatron_pz.runtime.first_rank import on_first_rank

TEXT_FILE = "results.txt"
COMPARISONS_FILE = "comparisons.json"
LONGEST_WAIT = timedelta(days=1)
"""Time that a rank waits for the last part of another one."""


@dataclass(frozen=True)
class BenchmarkRequest:
    """The benchmarks and models of an evaluation, and the directory for the answers."""

    names: tuple[str, ...]
    data: Path
    """Directory with a subdirectory for each benchmark."""
    results: Path
    """Directory for the results, with a subdirectory for each model."""
    settings: BenchmarkSettings
    context: int = 0
    """Maximum number of tokens of a prompt and its response together; 0: what the model and the recipe allow."""
    contamination: tuple[str, ...] = ()
    """Prefixes of training corpora in which the questions are looked for."""


@dataclass(frozen=True)
class _Work:
    """One model's share of the request."""

    name: str
    model: ServedModel
    benchmarks: Mapping[str, PreparedBenchmark]
    facts: Mapping[str, Mapping[str, Any]]
    rollout: RolloutConfig
    store: AnswerStore
    earlier: tuple[BenchmarkScore, ...]
    """Scores of all sets whose answers were in the directory already."""
    parts: Mapping[str, Sequence[Part]]
    missing: Sequence[Part]


def evaluate_benchmarks(
    models: Sequence[ServedModel],
    names: Sequence[str],
    request: BenchmarkRequest,
    rollout: RolloutConfig,
    *,
    rank: int,
    world_size: int,
) -> str:
    """Ask all models, write each one's results, and return them as text (rank 0). Collective over all ranks.

    All checks that need no engine run for all models before the first one is asked.

    Raises:
        BadInput: data, models, recipe or results directory cannot be used, or another evaluation uses the directory.
    """
    loaded = load_questions(request.names, request.data, request.settings)
    with ExitStack() as claim:
        on_first_rank(lambda: claim.enter_context(claimed_directory(request.results, "--results")))
        works = [_plan(name, model, loaded, request, rollout) for name, model in zip(names, models, strict=True)]
        found = find_contamination(loaded, models, request, rank=rank, world_size=world_size)
        _ask_all(works, request.settings, rank, world_size)
        return on_first_rank(lambda: _results(works, request, found))


def _ask_all(works: Sequence[_Work], settings: BenchmarkSettings, rank: int, world_size: int) -> None:
    """Answer the missing parts, model by model. Collective."""
    unfinished = {id(work.model): work for work in works if work.missing}
    turns = engines_in_turn(
        [work.model for work in unfinished.values()],
        lambda model: unfinished[id(model)].rollout,
        colocated=world_size > 1,
    )
    waiting = dist.new_group(backend="gloo", timeout=LONGEST_WAIT) if world_size > 1 else None
    with closing(turns):
        for model, engine in turns:
            _ask(unfinished[id(model)], engine, settings, rank, world_size)
            if waiting is not None:
                dist.barrier(waiting)


def _plan(
    name: str,
    model: ServedModel,
    loaded: Sequence[LoadedBenchmark],
    request: BenchmarkRequest,
    rollout: RolloutConfig,
) -> _Work:
    settings = request.settings
    prepared = {each.name: each for each in prepare(loaded, BenchmarkTokenizer(model.tokenizer_dir), settings)}
    context = min(
        max(each.longest() for each in prepared.values()),
        request.context or model.positions,
        model.positions,
    )
    for each in prepared.values():
        if all(len(prompt.token_ids) >= context for prompt in each.prompts):
            raise BadInput(
                f"--benchmarks {each.name}: no prompt is shorter than the context of {context} tokens; "
                "raise --context, or leave the benchmark out"
            )
    # Only their sum counts in an evaluation (VllmEngine.context).
    own = dataclasses.replace(rollout, max_prompt_length=context // 2, max_response_length=context - context // 2)
    store = AnswerStore(request.results / name)
    parts = {each.name: parts_of(each, settings.responses_per_part) for each in prepared.values()}

    def claimed() -> tuple[dict[str, dict[str, Any]], list[Part], tuple[BenchmarkScore, ...]]:
        weights = model.weights_sha256()
        facts = {each.name: _facts(each, settings, own, weights) for each in prepared.values()}
        for benchmark, depends_on in facts.items():
            store.claim(benchmark, depends_on)
        missing = store.missing([part for each in parts.values() for part in each])
        return facts, missing, _earlier(store)

    facts, missing, earlier = on_first_rank(claimed)
    return _Work(name, model, prepared, facts, own, store, earlier, parts, missing)


def _earlier(store: AnswerStore) -> tuple[BenchmarkScore, ...]:
    """Return the scores of earlier commands in a directory, for sets whose answers still exist."""
    if not (store.folder / RESULTS_FILE).is_file():
        return ()
    kept = ModelScores.load(store.folder).benchmarks
    return tuple(each for each in kept if store.holds(each.benchmark, each.facts))


def _facts(
    benchmark: PreparedBenchmark, settings: BenchmarkSettings, rollout: RolloutConfig, weights: Mapping[str, str]
) -> dict[str, Any]:
    """Return the settings, data and model that a benchmark's answers depend on."""
    protocol = benchmark.protocol
    data = [[each.id, each.subject, each.text, each.options, each.answer] for each in benchmark.questions]
    return {
        "recipe": settings.recipe,
        "questions": len(benchmark.questions),
        "of": benchmark.of,
        "data": _sha256(data),
        "chat": benchmark.chat,
        "prompts": _sha256([prompt.text for prompt in benchmark.prompts]),
        "samples": protocol.samples,
        "temperature": protocol.temperature,
        "top_p": protocol.top_p,
        "stop": list(protocol.stop),
        "max_tokens": benchmark.max_tokens,
        # A larger context does not change answers.
        "context": min(rollout.max_prompt_length + rollout.max_response_length, benchmark.longest()),
        "seed": settings.seed,
        "responses_per_part": settings.responses_per_part,
        "dtype": rollout.rollout_dtype,
        "quantization": rollout.rollout_quantization,
        "sequences_at_once": rollout.rollout_max_num_seqs,
        "ranks_per_engine": rollout.rollout_tensor_parallel_size,
        "model": dict(weights),
    }


def _sha256(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def _ask(work: _Work, engine: VllmEngine, settings: BenchmarkSettings, rank: int, world_size: int) -> None:
    """Answer this rank's share of a model's missing parts."""
    everything = [part for each in work.parts.values() for part in each]
    total = sum(part.responses for part in everything)

    def done() -> int:
        return total - sum(part.responses for part in work.store.missing(everything))

    answers = answer_parts(
        engine,
        work.benchmarks,
        work.missing,
        settings.seed,
        rank=rank,
        world_size=world_size,
        ranks_per_engine=work.rollout.rollout_tensor_parallel_size,
    )
    with WorkProgress(work.name, "responses", total, done(), shown=rank == 0) as progress:
        for part, rows in answers:
            work.store.write(part, rows)
            progress.at(done())


def _results(works: Sequence[_Work], request: BenchmarkRequest, found: Mapping[str, Contamination]) -> str:
    """Join the parts, score all models, compare each with the one before it, and write the results."""
    scored = []
    for work in works:
        for name, parts in work.parts.items():
            work.store.join(name, parts)
        scores = tuple(
            score(work.store.read(name), each.protocol.headline, work.facts[name], found.get(name))
            for name, each in work.benchmarks.items()
        )
        scored.append(ModelScores(work.name, scores))
        sets = {each.benchmark: each for each in (*work.earlier, *scores)}
        ModelScores(work.name, tuple(sets.values())).save(work.store.folder)
    comparisons = compare_in_turn(scored, [work.store.folder for work in works])
    if comparisons:
        save_comparisons(comparisons, request.results / COMPARISONS_FILE)
    text = results_text(scored, comparisons)
    write_text_whole(request.results / TEXT_FILE, text + "\n")
    return text


def find_contamination(
    loaded: Sequence[LoadedBenchmark],
    models: Sequence[ServedModel],
    request: BenchmarkRequest,
    *,
    rank: int,
    world_size: int,
) -> dict[str, Contamination]:
    """Search the request's training corpora for the questions, by benchmark; empty without corpora. Collective.

    Raises:
        BadInput: a corpus cannot be read, or none of the models' tokenizers made it.
    """
    if not request.contamination:
        return {}
    blend = open_blend(request.contamination, corpus_tokenizer_dir(request.contamination, models))
    index = QuestionIndex([each.text for one in loaded for each in one.questions])
    mine = range(rank, len(blend), world_size)
    with WorkProgress("contamination", "passages", len(mine), shown=rank == 0) as progress:
        for count, number in enumerate(mine, start=1):
            index.read([blend[number].text])
            if count % 1000 == 0 or count == len(mine):
                progress.at(count)
    overlaps = [index.overlapping()]
    if world_size > 1:
        gathered: list[Any] = [None] * world_size
        dist.all_gather_object(gathered, overlaps[0])
        overlaps = gathered
    anywhere = iter([any(of_ranks) for of_ranks in zip(*overlaps, strict=True)])
    short = iter(index.too_short())
    corpora = tuple(Path(prefix).name for prefix in request.contamination)
    return {
        one.protocol.benchmark: Contamination(
            corpora,
            len(blend),
            WORDS,
            tuple(each.id for each in one.questions if next(anywhere)),
            sum(next(short) for _ in one.questions),
        )
        for one in loaded
    }
