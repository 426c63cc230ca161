"""Measure the cost of preprocessing and of alternatives in one run, in CPU seconds with all child processes.

    python -m benchmarks.wikipedia.preprocess --dump SMALL.xml.bz2 --tokenizer-model DIR [--megabytes 100] [--repeats 3]

On a dump of --megabytes of XML that is made from a small real one (benchmarks/wikipedia/dump.py) and kept under
.cache/:

 - the whole pipeline, tools/preprocess_wikipedia.py with one worker, including start-up, and again with the search for
   near duplicates;
 - decompressing the same file with Python's bz2, in one process without its start-up, and with the pipeline's faster
   library if it is installed;
 - WikiExtractor 3.1.0 (its command, in a separate environment, without expanding templates, which is fastest), then
   Hugging Face one article at a time and Megatron's builder (benchmarks/wikipedia/peer.py), including start-up, and
   again without the time of the second command before its first article;
 - every stage of the pipeline, and the scanner compiled and interpreted (benchmarks/wikipedia/stages.py);
 - two workers against one: CPU, and wall time, which says nothing on a machine that does other things.

The result is the minimum of --repeats runs, because other load only adds time. Results go to benchmarks/results/.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.common.hardware import cpu_name
from benchmarks.common.peers import peer_python
from benchmarks.wikipedia.dump import VERSION, make_dump
from megatron_pz.config.command_line import Parser
from megatron_pz.reports.tables import table
from megatron_pz.runtime.errors import BadInput, exits_with_one_line

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".cache" / "benchmarks"
WIKIEXTRACTOR = "wikiextractor==3.1.0"
LIBRARIES = (
    "numpy",
    "pyarrow",
    "tokenizers",
    "gigatoken",
    "indexed_bzip2",
    "rensa",
    "transformers",
    "megatron-core",
    "cython",
)


class Failed(BadInput):
    """A measured command failed."""


def measured(command: Sequence[str | Path]) -> tuple[float, float, str]:
    """Run a command; return CPU seconds with all its children, wall seconds, and standard output."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    # Some machines prevent Python from caching bytecode; a second start would then compile this project again.
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    environment["PYTHONPYCACHEPREFIX"] = str(CACHE / "bytecode")
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(
        [str(part) for part in command], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise Failed(f"{' '.join(map(str, command[:4]))} …: ended with {done.returncode}: {reason}")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall, done.stdout


def pipeline(dump: Path, tokenizer: str, prefix: Path, workers: int, *options: str) -> dict[str, float]:
    """Return CPU and wall seconds of the tool."""
    tool: list[str | Path] = ["tools/preprocess_wikipedia.py", "--input", dump, "--output-prefix", prefix]
    how = ["--tokenizer-model", tokenizer, "--workers", str(workers), "--overwrite", "--fresh"]
    cpu, wall, _ = measured([sys.executable, *tool, *how, *options])
    return {"cpu": cpu, "wall": wall}


def peers(dump: Path, tokenizer: str, work: Path) -> dict[str, float]:
    """Return the CPU seconds of the usual chain of other tools."""
    extracted = work / "extracted"
    shutil.rmtree(extracted, ignore_errors=True)
    python = peer_python("wikiextractor", [WIKIEXTRACTOR])
    extract: list[str | Path] = [
        "--json",
        "--no-templates",
        "--processes",
        "1",
        "--quiet",
        "--bytes",
        "100M",
        "--output",
        extracted,
        dump,
    ]
    wikiextractor, _, _ = measured([python, "-m", "wikiextractor.WikiExtractor", *extract])
    chain: list[str | Path] = [sys.executable, "-m", "benchmarks.wikipedia.peer", extracted, tokenizer, work / "peer"]
    found = json.loads(measured(chain)[2].splitlines()[-1])
    return {"wikiextractor": wikiextractor, **found}


def stages(dump: Path, tokenizer: str, work: Path) -> dict[str, Any]:
    _, _, output = measured([sys.executable, "-m", "benchmarks.wikipedia.stages", dump, tokenizer, work / "stages"])
    return json.loads(output.splitlines()[-1])


def run(dump: Path, tokenizer: str, work: Path, repeats: int) -> dict[str, Any]:
    """Run all measurements, interleaved, so that a change of the machine's speed affects all equally."""
    runs: dict[str, list[Any]] = {"one worker": [], "two workers": [], "near duplicates": [], "stages": [], "peers": []}
    for _ in range(repeats):
        runs["one worker"].append(pipeline(dump, tokenizer, work / "own1", 1))
        runs["two workers"].append(pipeline(dump, tokenizer, work / "own2", 2))
        runs["near duplicates"].append(pipeline(dump, tokenizer, work / "near", 1, "--near-duplicates", "0.8"))
        runs["stages"].append(stages(dump, tokenizer, work))
        runs["peers"].append(peers(dump, tokenizer, work))
    for suffix in ("bin", "idx", "parquet"):
        files = [(work / f"own{workers}_text_passage.{suffix}").read_bytes() for workers in (1, 2)]
        if files[0] != files[1]:
            raise Failed(f"own_text_passage.{suffix}: one and two workers made different bytes")
    return runs


def least(runs: Sequence[dict[str, Any]], *keys: str) -> float:
    """Return the minimum of a measurement over the repeats."""

    def value(result: Any) -> float:
        for key in keys:
            result = result[key]
        return float(result)

    return min(map(value, runs))


def figures(results: dict[str, Any], xml_bytes: int) -> dict[str, float]:
    """Return the ratios that have goals, and their parts."""
    own, bz2_alone = least(results["one worker"], "cpu"), least(results["stages"], "stages", "bz2")
    peer = {part: least(results["peers"], part) for part in ("wikiextractor", "read", "tokenize", "build", "start_up")}
    chain = sum(peer.values())
    return {
        "pipeline": own,
        "bz2": bz2_alone,
        "decoder": least(results["stages"], "decoder_seconds"),
        "peers": chain,
        **peer,
        "peers_over_pipeline": chain / own,
        "peers_over_pipeline_without_start_up": (chain - peer["start_up"]) / own,
        "pipeline_over_bz2": own / bz2_alone,
        "scanner": max(result["scanner_mb_per_s"]["installed"] for result in results["stages"]),
        "scanner_interpreted": max(result["scanner_mb_per_s"]["interpreted"] for result in results["stages"]),
        "near_duplicates": least(results["near duplicates"], "cpu"),
        "two_workers_wall": least(results["one worker"], "wall") / least(results["two workers"], "wall"),
        "two_workers_cpu": least(results["two workers"], "cpu") / own,
        "mb_per_s": xml_bytes / 1e6 / own,
    }


def report(results: dict[str, Any], found: dict[str, float], about: dict[str, Any]) -> str:
    """Format the tables for the terminal and the results directory."""
    goals = [
        ("peers' CPU over the pipeline's, whole commands", f"{found['peers_over_pipeline']:.1f}", "≥ 10"),
        (
            "the same without the start-up of the peers' second command",
            f"{found['peers_over_pipeline_without_start_up']:.1f}",
            "",
        ),
        ("pipeline's CPU over Python's bz2 alone", f"{found['pipeline_over_bz2']:.2f}", "≤ 1.3"),
        ("wikitext to text, MB a CPU second", f"{found['scanner']:.0f}", "≥ 100"),
        ("two workers against one, wall", f"{found['two_workers_wall']:.2f}", "≥ 1.8"),
    ]
    made_of = [
        ("whole pipeline, one worker", f"{found['pipeline']:.2f}"),
        ("the same with --near-duplicates 0.8", f"{found['near_duplicates']:.2f}"),
        ("Python's bz2 alone", f"{found['bz2']:.2f}"),
        (f"the pipeline's decoder alone: {results['stages'][0]['decoder']}", f"{found['decoder']:.2f}"),
        ("WikiExtractor 3.1.0", f"{found['wikiextractor']:.2f}"),
        ("Hugging Face, one article at a time", f"{found['tokenize'] + found['read']:.2f}"),
        ("Megatron's builder", f"{found['build']:.2f}"),
        ("their start-up: torch, Megatron-Core, transformers", f"{found['start_up']:.2f}"),
        ("two workers over one", f"{found['two_workers_cpu']:.3f} ×"),
    ]
    names = results["stages"][0]["stages"]
    seconds = {name: least(results["stages"], "stages", name) for name in names}
    parts = [
        (name, f"{value:.2f}", f"{value / found['bz2']:.2f}", f"{about['xml_bytes'] / 1e6 / value:.0f}")
        for name, value in seconds.items()
    ]
    tables = [
        table("Goals", ("figure", "measured", "goal"), goals),
        table("CPU seconds", ("what", "seconds"), made_of),
        table("Stages, CPU seconds in one process", ("stage", "seconds", "over bz2", "MB of XML a second"), parts),
    ]
    amounts, scanner = results["stages"][0]["amounts"], results["stages"][0]["scanner"]
    lines = [
        f"{about['date']}, commit {about['commit']}, {about['processor']}, {about['cores']} cores, load "
        f"{about['load_before']:.1f} before and {about['load_after']:.1f} after",
        f"{about['xml_bytes'] / 1e6:.0f} MB of XML: {amounts['articles']:,} articles, {amounts['passages']:,} passages,"
        f" {amounts['tokens']:,} tokens; scanner {scanner}, interpreted {found['scanner_interpreted']:.1f} MB a second",
        "Python " + ", ".join(f"{name} {version}" for name, version in about["versions"].items()),
    ]
    return "\n".join([*lines, *tables]) + "\n"


def describe(xml_bytes: int, load_before: float) -> dict[str, Any]:
    """Return date, commit, machine and versions."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    installed = {distribution.metadata["Name"].lower() for distribution in importlib.metadata.distributions()}
    versions = {name: importlib.metadata.version(name) for name in LIBRARIES if name in installed}
    return {
        "date": datetime.datetime.now(tz=datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": commit.stdout.strip() or "unknown",
        "processor": cpu_name(),
        "cores": os.cpu_count(),
        "load_before": load_before,
        "load_after": os.getloadavg()[0],
        "xml_bytes": xml_bytes,
        "versions": {"python": platform.python_version(), **versions},
    }


@exits_with_one_line
def main() -> None:
    parser = Parser((__doc__ or "").partition("\n\n")[0])
    assets = ROOT / ".cache" / "quickstart" / "assets"
    parser.add_argument("--dump", type=Path, default=assets / "enwiki.xml.bz2", help="a small real dump")
    parser.add_argument("--tokenizer-model", default=str(assets / "model"), help="folder of a tokenizer")
    parser.add_argument("--megabytes", type=float, default=100, help="of XML, in the dump that is made")
    parser.add_argument("--repeats", type=int, default=3, help="runs of which the least counts")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results", help="folder for the results")
    flags = parser.parse_args()
    for path in (flags.dump, Path(flags.tokenizer_model)):
        if not path.exists():
            raise BadInput(f"{path}: is missing; ./examples/quickstart.sh fetches a dump and a model, or name others")
    if flags.megabytes <= 0 or flags.repeats < 1:
        raise BadInput("--megabytes and --repeats must be above 0")
    work = CACHE / "preprocess_wikipedia"
    work.mkdir(parents=True, exist_ok=True)
    dump = work / f"{flags.dump.name.partition('.')[0]}-{flags.megabytes:g}MB-v{VERSION}.xml.bz2"
    load_before = os.getloadavg()[0]
    xml_bytes = make_dump(flags.dump, dump, flags.megabytes)
    results = run(dump, flags.tokenizer_model, work, flags.repeats)
    about, found = describe(xml_bytes, load_before), figures(results, xml_bytes)
    text = report(results, found, about)
    print(text, end="")
    flags.results.mkdir(parents=True, exist_ok=True)
    stem = flags.results / f"{about['date'][:10]}_preprocess_wikipedia_{flags.megabytes:g}MB"
    stem.with_suffix(".txt").write_text(text, encoding="utf-8")
    content = {"about": about, "figures": found, "runs": results}
    stem.with_suffix(".json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(stem.with_suffix(".json"))


if __name__ == "__main__":
    main()
