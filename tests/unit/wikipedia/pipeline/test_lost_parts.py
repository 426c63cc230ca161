"""The counts of what was not understood: in the report, the manifest and the printed summary, for any workers."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.support.small_dump import HEADER, page
from tools import preprocess_wikipedia

pytestmark = pytest.mark.usefixtures("small_jobs")

WORDS = "It has a bank, a bridge and a mill, and its water is clear in every month of the year. "


@pytest.fixture
def dump(tmp_path: Path) -> Path:
    """Return a dump of twelve articles in several jobs, each with five unknown templates and an incomplete sentence."""
    articles = (
        page(
            number,
            f"River {number}",
            f"River {number} ({{{{no such|x}}}}; 9 km) is long.{{{{no such}}}} {WORDS}The {{{{no such}}}} is number "
            f"{number}. {{{{convert|5|no such unit}}}}\n* {{{{no such}}}}\n\n{{{{no such}}}}\n",
        )
        for number in range(12)
    )
    path = tmp_path / "dump.xml"
    path.write_text(HEADER + "".join(articles) + "</mediawiki>\n")
    return path


@pytest.mark.parametrize("keeps", [False, True])
def test_lost_parts_are_counted_and_shown(
    tmp_path: Path,
    dump: Path,
    tiny_tokenizer_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    keeps: bool,
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    manifests = []
    for workers in ("1", "3"):
        prefix = tmp_path / workers / "wiki"
        flags = ["--input", str(dump), "--output-prefix", str(prefix), "--tokenizer-model", str(tiny_tokenizer_dir)]
        kept = ["--keep-incomplete-sentences"] if keeps else []
        monkeypatch.setattr(sys, "argv", ["preprocess_wikipedia.py", *flags, "--workers", workers, *kept])
        preprocess_wikipedia.main()
        manifests.append(Path(f"{prefix}_text_passage.manifest.json").read_bytes())
    assert manifests[0] == manifests[1]
    counts = json.loads(manifests[0])["all_splits"]
    lost = {place: {name: n for name, n in of_place.items() if n} for place, of_place in counts["parts_lost"].items()}
    assert lost == {
        "between_words": {"unknown_template": 12} if keeps else {},
        "in_parentheses": {"unknown_template": 12},
        "behind_words": {"unknown_template": 12, "unread_arguments": 12},
        "as_list_items": {"unknown_template": 12},
        "on_lines_of_their_own": {"unknown_template": 12},
    }
    assert counts["sentences_dropped"]["unknown_template"] == (0 if keeps else 12)
    shown = capsys.readouterr().out
    assert "parts lost in parentheses: unknown template" in shown
    assert "parts lost behind words: unread arguments" in shown
    assert ("parts lost between words: unknown template" in shown) == keeps
    assert ("sentences dropped: unknown template" in shown) != keeps
