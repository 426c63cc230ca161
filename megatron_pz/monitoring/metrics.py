"""Keep the metrics of every step in ``<save>/metrics.jsonl``, one JSON object per line.

Names are ``section/quantity``. The sections and the quantities that the console, the curves and the reports know:

=============  =====================================================================================================
``train``      ``lr``, ``grad_norm``, ``consumed_passages`` or ``consumed_questions`` (so far), ``responses`` (in the
               update), ``loss`` (mean over the step's optimizer steps, as for ``grad_norm``), ``skipped_updates``
               (gradients that were not finite), ``active_masks`` (1: the generator's, 0: passive ones),
               ``sampling_rounds`` (draws of passages or questions)
``generator``  ``reward``, ``valid_masks`` and ``fault_<cause>`` (shares of all rollouts), ``distinct_masks`` (different
               valid spans per passage), ``span_words``, ``span_tokens``, ``sub_word_masks``, ``stop_word_masks``
               (shares of the valid masks), ``groups_equal`` (share of groups whose rewards are all equal)
``predictor``  ``accuracy``, ``format`` (share of responses with a readable answer), ``groups_all_zero``,
               ``groups_mixed``, ``groups_all_one`` (shares of the masks)
``solver``     for question answering: ``accuracy`` (share of right answers), ``accuracy_<set>`` if there are several,
               ``reward``, ``format``, ``grader_errors`` (answers that the grader could not judge), ``groups_all_zero``,
               ``groups_all_equal``, ``groups_mixed``, ``groups_all_one``
all roles      ``response_length`` (tokens), ``truncated`` (share), ``entropy`` (nats a token), ``gradient_share``
``loss``       ``clip_low``, ``clip_high``, ``clip_dual`` (shares of the tokens), ``ratio_mean``, ``ratio_min``,
               ``ratio_max``, ``reference_kl`` (nats, by the configured estimator; 0 without a reference policy)
``health``     ``log_prob_difference_mean``, ``log_prob_difference_max`` (nats, rollout against trainer), ``k3_kl``,
               ``effective_sample_size`` (share), ``importance_max`` (of the weights against the mismatch, as cut off),
               ``collapse_signs`` (number of them, see :mod:`megatron_pz.monitoring.collapse`), ``routing_difference``
               (with routing replay: share of tokens which the trainer would send to other experts, mean over layers)
``ahead``      for tokens sampled in an earlier step (the generator's, with rollout ranks both roles'):
               ``steps`` (their age), ``staleness_mean``, ``staleness_max`` (|log p - log p of the weights that sampled
               them|, nats), ``staleness_kl``, ``ratio_min``, ``ratio_max``, ``effective_sample_size``,
               ``importance_max``; with rollout ranks also ``overlap`` (share of the shorter of update and sampling
               during which the other also ran) and ``sync_difference`` (nats, mean of |log p(engine) -
               log p(trainer)| directly after the weight sync)
``drafts``     with --rollout-speculative-tokens, of rank 0's engines: ``acceptance`` (share of the draft tokens that
               were accepted), ``tokens_per_pass`` (sampled per forward pass of a response; 1 without drafts)
``time``       seconds: ``iteration`` and its parts ``rollout``, ``update``, ``sync``, ``checkpoint``, …;
               ``rollout_engines`` (part of the rollout spent in vLLM); ``update_passes`` (part of the update spent in
               forward passes, backward passes and optimizer steps); ``cpu_seconds`` (all ranks except rollout ranks);
               ``engine_tail`` (from the end of nine tenths of an engine's requests to the end of the slowest engine,
               mean over engines). Not seconds:
               ``engine_idle_share``, ``<role>_tokens_per_engine_second``
``memory``     GiB on rank 0: ``peak_rollout``, ``peak_update``, ``peak_sync`` (torch's allocator on a GPU, resident on
               a CPU), on a GPU also ``device_used_…`` (memory in use on the device at the end of the part)
``compute``    so far, over all ranks: ``trained_tokens``, ``scored_tokens``, ``prefilled_tokens``, ``sampled_tokens``,
               ``flops`` (:class:`megatron_pz.monitoring.compute.ComputeUsed`)
``held_out``   an evaluation during the run
``benchmark``  a benchmark's score by its name, ``…_unread``, ``…_truncated`` and ``…_too_long`` (shares)
=============  =====================================================================================================

Other names are kept and shown by TensorBoard as well.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_pz.runtime.errors import BadInput
from megatron_pz.runtime.files import written_whole

METRICS_FILE = "metrics.jsonl"


@dataclass(frozen=True)
class StepMetrics:
    """The measurements of one training step."""

    iteration: int
    """One-based step number."""
    values: Mapping[str, float]
    """Values by metric name; NaN if the step had nothing to measure, e.g. the accuracy without a valid mask."""

    def to_json(self) -> str:
        """Return one line of JSON. Non-finite numbers have no JSON form and become null."""
        values = {name: value if math.isfinite(value) else None for name, value in self.values.items()}
        return json.dumps({"iteration": self.iteration, **values})

    @classmethod
    def from_json(cls, line: str) -> StepMetrics:
        """Parse a line of :meth:`to_json`; null becomes NaN.

        Raises:
            ValueError, KeyError, TypeError, AttributeError, OverflowError or RecursionError: the line is another one.
        """
        record: dict[str, Any] = json.loads(line)
        iteration = record.pop("iteration")
        if not isinstance(iteration, int):
            raise TypeError(f"iteration {iteration!r} is not a whole number")
        return cls(iteration, {name: _number(value) for name, value in record.items()})


def _number(value: Any) -> float:
    """Return a number of a line of metrics, NaN for null. Raise TypeError or OverflowError for anything else."""
    if value is None:
        return math.nan
    if not isinstance(value, (int, float)):
        raise TypeError(f"{value!r} is not a number")
    float(value)  # an integer may be too large
    return value


class IterationLog:
    """An append-only JSONL file with lines of iterations, which a resumed run continues.

    A run that resumes from iteration k repeats the steps after k. Opening the file therefore removes the lines beyond
    k, and a last line that a crash left incomplete.
    """

    def __init__(self, path: Path, resume_iteration: int) -> None:
        """Open ``path``.

        Raises:
            BadInput: the file cannot be written, or one of its lines is not JSON with an iteration.
        """
        self._path = path
        try:
            if path.exists():
                self._cut(path, resume_iteration)
            self._file = path.open("a", encoding="utf-8")
        except OSError as error:
            raise BadInput(f"cannot write {path}: {error.strerror}; choose another --save") from None

    @staticmethod
    def _cut(path: Path, resume_iteration: int) -> None:
        """Truncate the file in place and line by line, because the samples of a long run are gigabytes."""
        kept = 0
        try:
            with path.open("rb") as file:
                for line in file:
                    if not line.endswith(b"\n") or json.loads(line)["iteration"] > resume_iteration:
                        break
                    kept += len(line)
        except (ValueError, KeyError, TypeError, RecursionError):
            raise BadInput(f"{path} holds a line that this program did not write; move the file away") from None
        os.truncate(path, kept)

    def append(self, line: str) -> None:
        """Write one line (without its line break) and hand it to the operating system at once."""
        self._file.write(line + "\n")
        self._file.flush()

    def size(self) -> int:
        """Return the size of the file in bytes."""
        return os.fstat(self._file.fileno()).st_size

    def keep(self, iterations: Collection[int]) -> None:
        """Remove the lines of all other iterations. The file is replaced atomically, so that a crash loses nothing."""
        with self._path.open("rb") as whole, written_whole(self._path) as kept:
            kept.writelines(line for line in whole if json.loads(line)["iteration"] in iterations)
        self._file.close()
        self._file = self._path.open("a", encoding="utf-8")

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        self._file.close()


def _whole_lines(path: Path) -> list[str]:
    """Read the complete lines of a file with their line breaks.

    ``str.splitlines`` would also end lines at characters such as U+2028, which JSON leaves as they are inside a text.

    Raises:
        UnicodeDecodeError: a ValueError.
    """
    with path.open(encoding="utf-8", newline="\n") as file:
        return [line for line in file if line.endswith("\n")]


def read_metrics(path: Path) -> list[StepMetrics]:
    """Read all steps of a metrics file, or of the run directory that holds it; an incomplete last line is left out.

    Raises:
        BadInput: there is no such file, or one of its lines is not JSON with an iteration and numbers.
    """
    file = path / METRICS_FILE if path.is_dir() else path
    if not file.is_file():
        raise BadInput(f"no metrics at {file}: give the --save directory of a run")
    try:
        return [StepMetrics.from_json(line) for line in _whole_lines(file)]
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        raise BadInput(f"{file} is not a metrics file: a line is not JSON with an iteration and numbers") from None
