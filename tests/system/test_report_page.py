"""The page of runs in a real browser opens from a file, reacts to clicks and filters, and logs no error."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from megatron_pz.evaluation.results import Evaluation, EvaluationSettings, MaskPredictions, OwnMask, PassageResult
from tests.support.browser import browser, missing
from tests.support.report_runs import HOSTILE, write_hostile_run, write_run
from tools import report

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing() or "there is a browser")


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with browser(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


def evaluation(folder: Path, name: str, accuracy: float) -> Path:
    own = OwnMask("ok", MaskPredictions("Vienna", accuracy, 1.0, 4.0), 0.5, False, False, 9, 1.0)
    results = tuple(
        PassageResult(f"Passage {number} is about Vienna.", (own,), MaskPredictions("Vienna", share, 1.0, 4.0), None)
        for number, share in enumerate((accuracy, 1.0, 0.0, 1.0 - accuracy))
    )
    path = folder / f"{name}.json"
    Evaluation(name, EvaluationSettings(max_prompt_length=9, max_response_length=9), results).save(path)
    return path


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a page of two runs and two evaluations."""
    folder = tmp_path_factory.mktemp("report")
    runs = [write_run(folder / name, seed=seed) for seed, name in enumerate(("pretrain_zero", "random_span"))]
    evaluations = [evaluation(folder, "before", 0.0), evaluation(folder, "after", 0.5)]
    path = folder / "page.html"
    report.main([*map(str, runs), "--evaluations", *map(str, evaluations), "--output", str(path)])
    return path


def open_page(driver: Any, page: Path, place: str = "curves") -> None:
    driver.get("about:blank")
    driver.get(f"{page.as_uri()}#{place}")
    wait(driver, lambda: driver.execute_script("return document.documentElement.dataset.ready") == "true")


def wait(driver: Any, condition: Callable[[], Any]) -> Any:
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(driver, 30, poll_frequency=0.05).until(lambda _: condition())


def find(driver: Any, selector: str) -> list[Any]:
    return driver.find_elements("css selector", selector)


def texts(driver: Any, selector: str) -> list[str]:
    return driver.execute_script(
        "return [...document.querySelectorAll(arguments[0])].map((element) => element.textContent)", selector
    )


def press(driver: Any, keys: str) -> None:
    from selenium.webdriver.common.action_chains import ActionChains

    ActionChains(driver).send_keys(keys).perform()


def choose(driver: Any, label: str, option: str) -> None:
    from selenium.webdriver.support.ui import Select

    (field,) = find(driver, f'select[aria-label="{label}"]')
    Select(field).select_by_visible_text(option)


def no_errors(driver: Any) -> None:
    assert [entry for entry in driver.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []


def test_curves_of_both_runs_are_drawn_as_they_are_scrolled_to(chromium: Any, page: Path) -> None:
    open_page(chromium, page)
    wait(chromium, lambda: find(chromium, ".panel canvas"))
    assert [each for each in texts(chromium, "h3.role") if each.startswith("Mask ")] == texts(chromium, "h3.role")
    drawn = len(find(chromium, ".panel canvas"))
    keys = texts(chromium, ".panel.generator .key bdi")[:2]
    assert keys == ["pretrain_zero", "random_span"]
    chromium.execute_script("window.scrollTo(0, document.body.scrollHeight)")
    wait(chromium, lambda: len(find(chromium, ".panel canvas")) > drawn)
    chromium.execute_script("window.scrollTo(0, 0)")
    find(chromium, ".chip input")[1].click()
    wait(chromium, lambda: texts(chromium, ".panel.generator .key bdi")[:1] == ["pretrain_zero"])
    assert "random_span" not in texts(chromium, ".panel .key bdi")
    choose(chromium, "Horizontal axis", "hours")
    wait(chromium, lambda: find(chromium, ".panel canvas"))
    find(chromium, ".chip input")[1].click()
    no_errors(chromium)


def test_masks_are_chosen_by_click_and_by_key(chromium: Any, page: Path) -> None:
    open_page(chromium, page, "masks")
    wait(chromium, lambda: find(chromium, ".passage mark"))
    title = texts(chromium, ".reader h3")
    press(chromium, "j")
    wait(chromium, lambda: find(chromium, "#item-1[aria-selected=true]"))
    wait(chromium, lambda: chromium.execute_script("return location.hash") == "#masks/0/1")
    press(chromium, "k")
    wait(chromium, lambda: chromium.execute_script("return location.hash") == "#masks/0/0")
    assert texts(chromium, ".reader h3") == title
    marks = find(chromium, ".passage mark:not(.selected)")
    words = marks[0].text
    marks[0].click()
    wait(chromium, lambda: words in texts(chromium, ".passage mark.selected"))
    assert texts(chromium, ".detail h4 bdi") == [words]
    predictions = find(chromium, ".detail details")
    assert len(predictions) == 8
    predictions[0].find_element("css selector", "summary").click()
    assert "What stands near suggests" in predictions[0].find_element("css selector", "pre").text
    assert "Δ log p" in predictions[0].text
    press(chromium, "o")
    wait(chromium, lambda: all(each.get_attribute("open") for each in find(chromium, ".detail details")))
    links = [link.get_attribute("href") for link in find(chromium, ".reader header a")]
    assert links[1].endswith("/w/index.php?oldid=1234567")
    no_errors(chromium)


def test_filters_leave_what_they_ask_for(chromium: Any, page: Path) -> None:
    open_page(chromium, page, "masks")
    wait(chromium, lambda: find(chromium, ".passage mark"))
    total = texts(chromium, ".masks [role=status]")
    assert total == ["80 passages."]
    choose(chromium, "Role", "mask generator")
    choose(chromium, "Outcome", "the passage does not contain these words")
    wait(chromium, lambda: find(chromium, ".detail .fault"))
    assert texts(chromium, ".detail .fault") == ["Not valid: the passage does not contain these words."]
    assert find(chromium, ".detail h5.predictor") == []
    (search,) = find(chromium, "#search")
    search.send_keys("river")
    wait(chromium, lambda: all("river" in title for title in texts(chromium, ".item b")))
    few = int(texts(chromium, ".masks [role=status]")[0].split()[0])
    assert 0 < few < 80
    search.send_keys("zzz")
    wait(chromium, lambda: texts(chromium, ".reader .empty") == ["No passage passes these filters."])
    find(chromium, ".filters button")[0].click()
    wait(chromium, lambda: texts(chromium, ".masks [role=status]") == total)
    (first,) = find(chromium, 'input[aria-label="first step"]')
    first.send_keys("40\t")
    wait(chromium, lambda: texts(chromium, ".masks [role=status]") == ["2 passages of 80."])
    choose(chromium, "Run", "random_span")
    find(chromium, ".filters button")[0].click()
    wait(chromium, lambda: chromium.execute_script("return location.hash").startswith("#masks/1/"))
    no_errors(chromium)


def test_the_address_names_a_passage(chromium: Any, page: Path) -> None:
    open_page(chromium, page, "masks/1/7")
    wait(chromium, lambda: find(chromium, "#item-7[aria-selected=true]"))
    assert "step 4" in texts(chromium, ".reader header p")[0]


def test_tabs_theme_and_help_answer_to_keys(chromium: Any, page: Path) -> None:
    open_page(chromium, page)
    press(chromium, "3")
    wait(chromium, lambda: find(chromium, ".heat td"))
    headings = texts(chromium, "h2")
    assert any("kind of hidden words" in heading for heading in headings)
    theme = chromium.execute_script("return document.documentElement.dataset.theme")
    press(chromium, "t")
    wait(chromium, lambda: chromium.execute_script("return document.documentElement.dataset.theme") != theme)
    press(chromium, "?")
    wait(chromium, lambda: find(chromium, "dialog[open]"))
    find(chromium, "dialog button")[0].click()
    wait(chromium, lambda: not find(chromium, "dialog[open]"))
    press(chromium, "5")
    wait(chromium, lambda: find(chromium, ".settings tr.differs"))
    no_errors(chromium)


def test_evaluations_show_wrong_items_first(chromium: Any, page: Path) -> None:
    open_page(chromium, page, "evaluations")
    wait(chromium, lambda: find(chromium, ".item-card"))
    assert texts(chromium, ".results thead bdi") == ["before", "after"]
    assert find(chromium, ".forest circle")
    assert "before 0 %after 0 %" in texts(chromium, ".item-card")[0]
    choose(chromium, "Verdict", "models differ")
    wait(chromium, lambda: texts(chromium, ".items [role=status]") == ["2 items"])
    no_errors(chromium)


def test_hostile_texts_are_shown_as_text(chromium: Any, tmp_path: Path) -> None:
    run = write_hostile_run(tmp_path / "hostile")
    report.main([str(run)])
    open_page(chromium, run / "report.html", "masks")
    for number, text in enumerate(HOSTILE):
        wait(chromium, lambda number=number: chromium.execute_script("return location.hash") == f"#masks/0/{number}")
        wanted = f"{text} Vienna {text}".replace("\ud800", "?")
        assert texts(chromium, ".reader .passage") == [wanted]
        assert find(chromium, ".reader header a") == []
        press(chromium, "j")
    for key in "135":
        press(chromium, key)
    assert chromium.title == "hostile"
    no_errors(chromium)


@pytest.mark.parametrize("width", [400, 1400])
def test_nothing_is_wider_than_the_window(chromium: Any, page: Path, width: int) -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    chromium.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        for tab in ("curves", "masks/0/0", "difficulty", "evaluations", "about"):
            open_page(chromium, page, tab)
            wait(chromium, lambda: len(texts(chromium, "main > *")) > 0)
            assert chromium.execute_script("return document.documentElement.scrollWidth") <= width, tab
    finally:
        chromium.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_a_run_without_a_step_says_so(chromium: Any, tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").touch()
    report.main([str(tmp_path), "--output", str(tmp_path / "page.html")])
    open_page(chromium, tmp_path / "page.html")
    assert texts(chromium, ".empty")[0].startswith("No step has been finished yet")
    press(chromium, "2")
    wait(chromium, lambda: texts(chromium, ".empty")[0].startswith("No samples are kept"))
    no_errors(chromium)
