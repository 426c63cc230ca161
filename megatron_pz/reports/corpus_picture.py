"""Draw a corpus in one picture: the lengths of its passages and articles, and the outcomes of its source pages."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from megatron_pz.corpus.browser import CorpusBrowser, Lengths
from megatron_pz.runtime.files import write_whole

KEPT, DROPPED, MARK, INK = "#0072B2", "#BBBBBB", "#D55E00", "#333333"
"""Colours of the Okabe-Ito palette, which colour-blind readers can tell apart."""
_BINS = 40
_SPAN_OF_LOGARITHM = 100
"""Ratio of longest to shortest length above which an axis is logarithmic."""


def headline(corpus: CorpusBrowser) -> str:
    """Return the size of a corpus in one line."""
    counts = corpus.manifest["counts"]
    parts = [f"{counts['documents']:,} articles"]
    if corpus.unit == "passage":
        parts.append(f"{counts['passages']:,} passages")
    return (
        ", ".join([*parts, f"{short(counts['tokens'])} tokens"])
        + f" (tokenizer: {corpus.manifest['tokenizer']['name']})"
    )


def origin(corpus: CorpusBrowser) -> str:
    """Return the source of a corpus in one line."""
    return f"{', '.join(source['name'] for source in corpus.manifest['inputs'])}; {corpus.manifest['license']}"


def short(number: float) -> str:
    """Format a number with three digits: 950, 12.3 k, 1.07 M."""
    for limit, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if number >= 0.9995 * limit:
            return f"{number / limit:.3g}{unit}"
    return f"{number:.3g}"


def percent(part: int, whole: int) -> str:
    """Format a share with one decimal; never show a share above 0 as 0."""
    share = part / max(whole, 1)
    return "< 0.1 %" if 0 < share < 0.001 else f"{100 * share:.1f} %"


def outcomes(pages: Mapping[str, Any]) -> list[tuple[str, int]]:
    """List the outcomes of the pages: articles, then the reasons for drops, most frequent first."""
    dropped = sorted(pages["dropped"].items(), key=lambda item: -item[1])
    reasons = [(f"dropped: {reason.replace('_', ' ')}", count) for reason, count in dropped if count]
    return [("articles", pages["articles"]), *reasons]


def pages_title(corpus: CorpusBrowser) -> str:
    """Return the heading of the outcomes of the pages, which cover all splits."""
    pages = corpus.manifest["all_splits"]
    of_all = ", for all splits together" if pages["articles"] != corpus.manifest["counts"]["documents"] else ""
    return f"What became of {pages['pages']:,} pages{of_all}"


def even_edges(shortest: int, longest: int, bins: int) -> np.ndarray:
    """Return the edges of at most ``bins`` bins of equally many integer lengths, so that bars are comparable."""
    width = -(-(longest + 1 - shortest) // bins)
    return np.arange(shortest, longest + 1 + width, width)


def corpus_figure(corpus: CorpusBrowser) -> Figure:
    """Draw four panels, with the corpus's name and size above them and its origin below."""
    figure = Figure(figsize=(12.5, 8.2), layout="constrained", facecolor="white")
    panels = figure.subplots(2, 2)
    unit = corpus.unit
    histogram(
        panels[0, 0], corpus.passage_tokens(), f"Length of {unit}s in tokens", f"tokens in {an(unit)}", f"{unit}s"
    )
    histogram(panels[0, 1], corpus.passage_words(), f"Length of {unit}s in words", f"words in {an(unit)}", f"{unit}s")
    histogram(panels[1, 0], corpus.article_tokens(), "Length of articles", "tokens in an article", "articles")
    bars(panels[1, 1], corpus.manifest["all_splits"], pages_title(corpus))
    figure.suptitle(f"{corpus.name}\n{headline(corpus)}", fontsize=14, color=INK)
    figure.supxlabel(origin(corpus), fontsize=9, color="#666666")
    return figure


def draw_corpus(corpus: CorpusBrowser, path: Path) -> None:
    """Write the picture as PNG."""
    write_whole(path, lambda partial: corpus_figure(corpus).savefig(partial, dpi=120, format="png"))


def an(unit: str) -> str:
    return f"an {unit}" if unit[0] in "aeiou" else f"a {unit}"


def histogram(axes: Axes, lengths: Lengths, title: str, x_label: str, y_label: str) -> None:
    """Draw bars over lengths and mark the median; use a logarithmic axis for lengths of different magnitudes."""
    shortest, longest = max(lengths.shortest, 1), max(lengths.longest, 1)
    is_logarithmic = longest >= _SPAN_OF_LOGARITHM * max(lengths.quantile(0.02), 1)
    edges = (
        np.unique(np.round(np.geomspace(shortest, longest + 1, _BINS + 1)))
        if is_logarithmic
        else even_edges(0, longest, _BINS)
    )
    axes.stairs(lengths.binned(edges), edges, fill=True, color=KEPT, alpha=0.9)
    median = lengths.quantile(0.5)
    axes.axvline(median, color=MARK, linewidth=1.5, label=f"median {median:,}")
    axes.legend(frameon=False, labelcolor=MARK, handlelength=1.2)
    if is_logarithmic:
        axes.set_xscale("log")
    else:
        axes.set_xlim(0, None)
    axes.set_title(f"{title}: mean {lengths.mean:,.0f}, longest {longest:,}", fontsize=11, loc="left", color=INK)
    _label(axes, x_label, y_label)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))


def bars(axes: Axes, pages: Mapping[str, Any], title: str) -> None:
    """Draw one bar for each outcome of a page, with its number and share."""
    rows = outcomes(pages)
    places = np.arange(len(rows))
    counts = [count for _, count in rows]
    axes.barh(places, counts, color=[KEPT, *[DROPPED] * (len(rows) - 1)], height=0.7)
    axes.set_yticks(places, [name.removeprefix("dropped: ") for name, _ in rows])
    axes.invert_yaxis()
    for place, count in zip(places, counts, strict=True):
        axes.annotate(
            f"{count:,} ({percent(count, pages['pages'])})",
            (count, place),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
            color=INK,
        )
    axes.margins(x=0.3)
    axes.set_title(f"{title} (grey: dropped)", fontsize=11, loc="left", color=INK)
    _label(axes, "pages", "")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    axes.grid(axis="y", visible=False)


def _label(axes: Axes, x_label: str, y_label: str) -> None:
    axes.set_xlabel(x_label, color=INK)
    axes.set_ylabel(y_label, color=INK)
    axes.grid(alpha=0.25)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
