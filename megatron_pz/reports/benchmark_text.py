"""Write benchmark results and comparisons as text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from megatron_pz.evaluation.benchmarks.comparison import SIGNIFICANT, Comparison, Difference
from megatron_pz.evaluation.benchmarks.intervals import Interval
from megatron_pz.evaluation.benchmarks.scores import HARMONIC, BenchmarkScore, ModelScores
from megatron_pz.question_answering.benchmarks import shortfall
from megatron_pz.reports.tables import table

SIGNIFICANT_MARK = "*"


def results_text(models: Sequence[ModelScores], comparisons: Sequence[Comparison] = ()) -> str:
    """Return a table of all scores, the settings, warnings, and the comparisons, without a final newline."""
    names = list(_first_scores(models))
    title = "accuracy [95 % bootstrap interval over questions]"
    rows = [row for name in names for row in _rows(name, models, _scores)]
    header = ["", *(model.name for model in models)]
    lines = [table(title, header, rows), "", *_how_asked(models)]
    if subjects := [row for name in names for row in _rows(name, models, _subjects)]:
        lines += ["", table("by subject", header, subjects)]
    for comparison in comparisons:
        lines += ["", *_comparison_lines(comparison)]
    return "\n".join(lines)


def _first_scores(models: Sequence[ModelScores]) -> dict[str, BenchmarkScore]:
    """Return, for each set, the score of the first model that was asked it."""
    found: dict[str, BenchmarkScore] = {}
    for model in models:
        for score in model.benchmarks:
            found.setdefault(score.benchmark, score)
    return found


def _rows(
    benchmark: str, models: Sequence[ModelScores], part: Callable[[BenchmarkScore], Mapping[str, str]]
) -> list[list[str]]:
    """Return a row for each label in a part of any model's result, with one cell for each model."""
    found = [
        next((part(each) for each in model.benchmarks if each.benchmark == benchmark), dict[str, str]())
        for model in models
    ]
    labels = dict.fromkeys(label for cells in found for label in cells)
    return [[f"{benchmark}{label}", *(cells.get(label, "–") for cells in found)] for label in labels]


def _scores(score: BenchmarkScore) -> dict[str, str]:
    """Return scores and counts by their labels."""
    several = len(score.scores) > 1
    cells = {
        f" {name}{' (headline)' if several and name == score.headline else ''}": _cell(value)
        for name, value in score.scores.items()
    }
    if len(score.graders) > 1:
        cells |= {f" by {grader}": _cell(value) for grader, value in score.graders.items()}
    if score.contamination is not None:
        cells[" micro, not in the corpus"] = "–" if score.clean is None else _cell(score.clean)
    counted = {f": {label}": count(score) for label, count in _COUNTED.items()}
    return cells | {label: text for label, text in counted.items() if text}


def _subjects(score: BenchmarkScore) -> dict[str, str]:
    """Return the scores of the subjects if there are several."""
    cells = {f" {subject}": _cell(value) for subject, value in score.subjects.items()}
    return cells if len(cells) > 1 else {}


def _share(count: int, score: BenchmarkScore) -> str:
    return f"{count} of {score.counts.responses}" if count else ""


def _guesses(score: BenchmarkScore) -> str:
    counts = score.counts
    return f"{counts.guessed} ({counts.guessed_right} right)" if counts.guessed else ""


_COUNTED: Mapping[str, Callable[[BenchmarkScore], str]] = {
    "responses without a readable answer": lambda score: _share(score.counts.unread, score),
    "of these, random guesses": _guesses,
    "cut off at the limit": lambda score: _share(score.counts.truncated, score),
    "prompts too long for the context, wrong": lambda score: str(len(score.too_long)) if score.too_long else "",
    "the grader failed, wrong": lambda score: _share(score.counts.grader_errors, score),
    "questions that occur in the corpus": lambda score: (
        "" if score.contamination is None else f"{len(score.contamination.questions)} of {score.facts['questions']}"
    ),
}


def _how_asked(models: Sequence[ModelScores]) -> list[str]:
    """Describe each set's settings, taken from the first model that was asked it."""
    lines = []
    for score in _first_scores(models).values():
        facts = score.facts
        count = f"{facts['questions']} of {facts['of']} questions" if facts["questions"] < facts["of"] else "all"
        if (lacking := shortfall(score.benchmark, score.subjects)) is not None:
            count += f" of {lacking}"
        samples = f"mean@{facts['samples']}" if facts["samples"] > 1 else "one answer"
        how = (
            "greedy" if facts["temperature"] == 0 else f"temperature {facts['temperature']:g}, top-p {facts['top_p']:g}"
        )
        asked = "chat template" if facts["chat"] else "plain completion"
        lines.append(
            f"{score.benchmark}: {count}, {samples}, {how}, at most {facts['max_tokens']} tokens, {asked}, "
            f"recipe {facts['recipe']}"
        )
        if "harmonic" in score.scores:
            lines.append(f"    harmonic: {HARMONIC}")
        if score.too_long:
            shown = ", ".join(score.too_long[:5]) + (", …" if len(score.too_long) > 5 else "")
            lines.append(f"    prompts longer than the context of {facts['context']} tokens: {shown}")
        if score.contamination is not None:
            found = score.contamination
            lines.append(
                f"    searched for in {found.passages:,} passages of {', '.join(found.corpus)}: {found.words} words in "
                f"a row; {found.too_short} questions are too short to be searched for"
            )
    return lines


def _comparison_lines(comparison: Comparison) -> list[str]:
    header = ["", "questions", "before", "after", "difference [95 %]", "p", "p (Holm)", ""]
    title = f"{comparison.before} -> {comparison.after}, the same questions in pairs"
    lines = [table(title, header, [_difference_row(each) for each in comparison.sets])]
    if comparison.subjects:
        lines += ["", table(f"{title}, by subject", header, [_difference_row(each) for each in comparison.subjects])]
    lines += ["", *_verdicts(comparison)]
    return lines


def _difference_row(change: Difference) -> list[str]:
    label = f"{change.benchmark} {change.subject or change.statistic}"
    interval = f"{change.change.mean:+.3f} [{change.change.low:+.3f}, {change.change.high:+.3f}]"
    return [
        label,
        str(change.questions),
        f"{change.before:.3f}",
        f"{change.after:.3f}",
        interval,
        f"{change.p:.4f}",
        f"{change.corrected_p:.4f}",
        SIGNIFICANT_MARK if change.significant else "",
    ]


def _verdicts(comparison: Comparison) -> list[str]:
    """Return sentences that state which differences are significant and which are not."""
    sets = {each.benchmark: each for each in reversed(comparison.sets)}
    changed = [each for each in reversed(sets.values()) if each.significant]
    lines = [
        f"{SIGNIFICANT_MARK} p < {SIGNIFICANT:g} after Holm's correction for the number of sets ({len(sets)})"
        + (f", or of subjects ({len(comparison.subjects)})" if comparison.subjects else "")
        + ". Intervals are not corrected, and cover the choice of questions, not of training seeds."
    ]
    if not changed:
        return [*lines, f"No set distinguishes {comparison.after} from {comparison.before}."]
    better = _named(each for each in changed if each.change.mean > 0)
    worse = _named(each for each in changed if each.change.mean < 0)
    lines += [f"{comparison.after} is better than {comparison.before} on {better}."] if better else []
    lines += [f"{comparison.after} is worse than {comparison.before} on {worse}."] if worse else []
    return lines


def _named(changes: Iterable[Difference]) -> str:
    return ", ".join(f"{each.benchmark} ({each.change.mean:+.3f})" for each in changes)


def _cell(value: Interval) -> str:
    return f"{value.mean:.3f} [{value.low:.3f}, {value.high:.3f}]"
