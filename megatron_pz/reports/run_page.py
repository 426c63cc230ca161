"""Write one self-contained HTML page about runs: curves, masks to browse, difficulty, evaluations.

The page's HTML, style and scripts are files under ``page/``. Data are embedded as deflated JSON in base64, so that the
text of a sample is never parsed as HTML, and a content security policy forbids every request and every other script.
"""

from __future__ import annotations

import base64
import datetime
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from megatron_pz import __version__
from megatron_pz.reports.difficulty import difficulty
from megatron_pz.reports.kept_samples import KeptPassage
from megatron_pz.reports.passage_texts import Shown, choose, pack
from megatron_pz.reports.run_folder import RunFolder
from megatron_pz.reports.topics import Topics, find_topics
from megatron_pz.runtime.errors import BadInput
from megatron_pz.runtime.files import write_text_whole

PAGE = Path(__file__).with_name("page")
SCRIPTS = ("dom.js", "charts.js", "masks.js", "difficulty.js", "evaluations.js", "main.js")
MAX_MIB = 28.0
"""Default maximum size of a page, 29.4 MB."""
MIB = 2**20
_INDEX_ENTRY = 48
"""Bytes to keep free for the index entry of a shown passage: step, title, topic, place, outcomes."""


def write_run_page(
    path: Path,
    runs: Sequence[RunFolder],
    evaluations: dict[str, Any],
    *,
    title: str,
    max_mib: float = MAX_MIB,
) -> None:
    """Write the page and replace the file atomically, so that a browser never reads a partial page.

    Args:
        path: the file to write.
        runs: one run, or several on the same axes.
        evaluations: ``{"tables": […], "items": […]}`` (:func:`.evaluation_tables.evaluation_tables`).
        title: heading of the page.
        max_mib: maximum size of the page, MiB. Texts of passages are left out, evenly over the steps, to respect it.

    Raises:
        BadInput: the file cannot be written, or the page without any passage is larger than ``max_mib``.
    """
    kept = [run.samples.passages if run.samples else [] for run in runs]
    topics = find_topics([passage.text for passages in kept for passage in passages])
    of_run, begin = [], 0
    for passages in kept:
        of_run.append(topics.of_passage[begin : begin + len(passages)])
        begin += len(passages)
    nothing = [Shown((), ())] * len(runs)
    bare = _page(title, runs, of_run, topics, evaluations, nothing)
    left = max_mib * MIB - len(bare.encode())
    if left < 0:
        raise BadInput(
            f"--max-mib {max_mib:g}: the curves and evaluations alone take {len(bare) / MIB:.1f} MiB; give more"
        )
    shown = []
    for place, run in enumerate(runs):  # space that one run does not use is left to the next
        own = choose(run.samples, int(left / (len(runs) - place)), _INDEX_ENTRY) if run.samples else Shown((), ())
        shown.append(own)
        left -= sum(len(text) + _INDEX_ENTRY for text in own.texts)
    page = _page(title, runs, of_run, topics, evaluations, shown)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text_whole(path, page)
    except OSError as error:
        raise BadInput(f"cannot write {path}: {error.strerror}") from None


def _page(
    title: str,
    runs: Sequence[RunFolder],
    topics_of_run: Sequence[Sequence[int]],
    topics: Topics,
    evaluations: dict[str, Any],
    shown: Sequence[Shown],
) -> str:
    texts: list[str] = []
    described = []
    for run, own_topics, own in zip(runs, topics_of_run, shown, strict=True):
        described.append(_run_record(run, own_topics, topics.labels, own, sum(map(len, texts))))
        texts += own.texts
    read = {name: (PAGE / name).read_text(encoding="utf-8") for name in ("panels.json", "wording.json")}
    sections = json.loads(read["panels.json"])
    data = {
        "title": title,
        "made": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "version": __version__,
        "runs": described,
        "topics": topics.labels,
        "sections": sections + _other_panels(sections, runs),
        "wording": json.loads(read["wording.json"]),
        "evaluations": {**evaluations, "items": pack(evaluations["items"]) if evaluations.get("items") else None},
        "licence": (PAGE / "vendor/uPlot.LICENSE").read_text(encoding="utf-8"),
    }
    style = "\n".join((PAGE / name).read_text(encoding="utf-8") for name in ("vendor/uPlot.min.css", "page.css"))
    own_scripts = "\n".join((PAGE / name).read_text(encoding="utf-8") for name in SCRIPTS)
    library = (PAGE / "vendor/uPlot.iife.min.js").read_text(encoding="utf-8")
    script = f'{library}\n(() => {{\n"use strict";\n{own_scripts}}})();\n'
    policy = f"default-src 'none'; script-src 'sha256-{_sha256(script)}'; style-src 'sha256-{_sha256(style)}'"
    parts = {
        "policy": policy,
        "title": escape(title),
        "style": style,
        "data": pack(data),
        "texts": "".join(texts),
        "script": script,
    }
    page = (PAGE / "page.html").read_text(encoding="utf-8")
    for name, part in parts.items():
        before, _, after = page.partition(f"{{{{{name}}}}}")
        page = before + part + after
    return page


def _sha256(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")


def _run_record(
    run: RunFolder, topics: Sequence[int], topic_labels: Sequence[str], shown: Shown, offset: int
) -> dict[str, Any]:
    """Describe a run for the page: curves, settings, difficulty, and an index of the shown passages in columns."""
    passages = run.samples.passages if run.samples else []
    own = [passages[number] for number in shown.numbers]
    titles = {title: place for place, title in enumerate(dict.fromkeys(passage.title for passage in own))}
    starts = [offset]
    for text in shown.texts:
        starts.append(starts[-1] + len(text))
    return {
        "name": run.name,
        "planned": run.planned,
        "steps": [step.iteration for step in run.steps],
        "metrics": run.columns(),
        "settings": run.settings,
        "difficulty": difficulty(passages, topics, topic_labels),
        "kept": {
            "all": len(passages),
            "titles": list(titles),
            "title": [titles[passage.title] for passage in own],
            "step": [passage.iteration for passage in own],
            "topic": [topics[number] for number in shown.numbers],
            "outcomes": [_outcomes(passage) for passage in own],
            "start": starts,
        },
    }


def _outcomes(passage: KeptPassage) -> list[float | str]:
    return [outcome if isinstance(outcome, str) else round(outcome, 3) for outcome in passage.outcomes]


def _other_panels(sections: Sequence[dict[str, Any]], runs: Sequence[RunFolder]) -> list[dict[str, Any]]:
    """Make panels of the remaining metrics: held-out evaluations during the run, and all others."""
    panels = [panel for section in sections for row in section["rows"] for panel in row]
    named = {line["metric"] for panel in panels for line in panel["lines"]}
    named |= {name for panel in panels for name in panel.get("exclude", ())}
    prefixes = tuple(panel["prefix"] for panel in panels if panel.get("prefix"))
    counts = Counter(name for run in runs for name in {name for step in run.steps for name in step.values})
    left = sorted(name for name in counts if name not in named and not name.startswith(prefixes))
    held_out = [name for name in left if name.startswith("held_out/")]
    others = [name for name in left if not name.startswith("held_out/")]
    found = []
    if held_out:
        found.append({"title": "Held-out passages, during the run", "rows": list(_rows(held_out))})
    if others:
        found.append({"title": "Other measurements", "rows": list(_rows(others))})
    return found


def _rows(metrics: Sequence[str]) -> Iterable[list[dict[str, Any]]]:
    panels = [
        {
            "title": name.rpartition("/")[2].replace("_", " ").capitalize(),
            "unit": name,
            "hint": f"The metric {name} of metrics.jsonl.",
            "lines": [{"metric": name, "label": name.rpartition("/")[2].replace("_", " ")}],
        }
        for name in metrics
    ]
    yield from (panels[index : index + 2] for index in range(0, len(panels), 2))
