"""The page of a run of the paper's length: 2000 steps with 32 passages each."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.support.browser import browser, missing
from tests.support.report_page import blob, unpack
from tests.support.report_runs import write_run
from tools import report

STEPS, PASSAGES = 2000, 32
MAX_BYTES, MAX_SECONDS = 30e6, 3.0


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = write_run(tmp_path_factory.mktemp("run"), steps=STEPS, passages=PASSAGES, masks=1, predictions=4)
    report.main([str(run)])
    return run / "report.html"


def test_it_stays_below_its_size_by_leaving_out_passages_evenly(page: Path) -> None:
    assert 0.8 * MAX_BYTES < page.stat().st_size < MAX_BYTES
    (described,) = unpack(blob(page, "data"))["runs"]
    kept = described["kept"]
    assert len(described["steps"]) == STEPS
    assert len(kept["step"]) < kept["all"] == STEPS * PASSAGES
    assert set(kept["step"]) == set(described["steps"]), "something of every step can be read"
    assert sum(sum(row["n"]) for row in described["difficulty"]["kinds"]) > len(kept["step"])


@pytest.mark.skipif(bool(missing()), reason=missing() or "there is a browser")
def test_it_opens_in_three_seconds_of_work(page: Path, tmp_path: Path) -> None:
    """This measures CPU seconds of the page's own thread, from an empty page to the first texts."""
    with browser(tmp_path) as driver:
        driver.execute_cdp_cmd("Performance.enable", {"timeDomain": "threadTicks"})
        for tab, shown in (("curves", ".panel canvas"), ("masks", ".reader .passage")):
            driver.get("about:blank")
            driver.get(f"{page.as_uri()}#{tab}")
            deadline = time.monotonic() + 60
            while not driver.find_elements("css selector", shown):
                assert time.monotonic() < deadline
                time.sleep(0.05)
            found = driver.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]
            (work,) = [metric["value"] for metric in found if metric["name"] == "TaskDuration"]
            assert 0 < work < MAX_SECONDS
        (said,) = [element.text for element in driver.find_elements("css selector", ".masks [role=status]")]
        assert "of the 64,000 kept ones, spread evenly over the steps" in said
