"""Keep the samples of a run within a size budget: the newest step, and ever fewer older steps as the run grows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from megatron_pz.monitoring.metrics import IterationLog
from megatron_pz.monitoring.samples import SAMPLES_FILE, Sample, write_page
from megatron_pz.runtime.errors import BadInput

MIB = 2**20


class SampleFiles:
    """``samples.jsonl`` and one page per step under ``samples/``, of at most ``budget_mib`` together.

    If a step's samples exceed the budget, the odd iterations are removed, then the odd multiples of 2, of 4 and so on,
    until half of the budget is free. The remaining samples are spread evenly over the run. The rule depends only on the
    files, so that a resumed run can continue with them. The newest page always stays, even if it is too large.
    """

    def __init__(self, save_dir: Path, resume_iteration: int, *, budget_mib: float) -> None:
        """Open the files and remove the samples of steps that a resumed run repeats.

        Args:
            save_dir: the run's directory.
            resume_iteration: iteration of the loaded checkpoint, 0 for a new run.
            budget_mib: 0 for no limit.

        Raises:
            BadInput: the files cannot be written.
        """
        self._directory, self._budget = save_dir / "samples", budget_mib * MIB
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BadInput(f"cannot create {self._directory}: {error.strerror}; choose another --save") from None
        self._sizes: dict[int, int] = {}
        """Bytes of the page of each iteration."""
        for page in self._directory.glob("iter_*.md"):
            iteration = int(page.stem.removeprefix("iter_"))
            if iteration > resume_iteration:
                page.unlink()
            else:
                self._sizes[iteration] = page.stat().st_size
        self._lines = IterationLog(save_dir / SAMPLES_FILE, resume_iteration)

    def write(self, iteration: int, samples: Sequence[Sample]) -> None:
        """Write the samples of a step, and remove older ones if the budget is exceeded."""
        for sample in samples:
            self._lines.append(sample.to_json(iteration))
        page = self._page(iteration)
        write_page(page, iteration, samples)
        self._sizes[iteration] = page.stat().st_size
        if self._budget and self._bytes() > self._budget:
            self._thin(iteration)

    def close(self) -> None:
        """Close the files."""
        self._lines.close()

    def _bytes(self) -> int:
        return sum(self._sizes.values()) + self._lines.size()

    def _thin(self, newest: int) -> None:
        """Remove iterations, by rising powers of two that divide them, until half of the budget is free."""
        stride = 1
        while self._bytes() > self._budget / 2 and self._sizes.keys() != {newest}:
            stride *= 2
            for iteration in [each for each in self._sizes if each % stride and each != newest]:
                self._page(iteration).unlink(missing_ok=True)
                del self._sizes[iteration]
            self._lines.keep(self._sizes.keys())

    def _page(self, iteration: int) -> Path:
        return self._directory / f"iter_{iteration:07d}.md"
