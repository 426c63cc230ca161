"""Commands and paths in the READMEs: every path exists, and every flag belongs to its command."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from megatron_pz.config.schema import RunConfig
from megatron_pz.config.validate_ranges import flag

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    page for pattern in ("*.md", "docs/*.md", "examples/*/*.md", "benchmarks/*.md") for page in ROOT.glob(pattern)
)
OF_A_RUN = {flag(field.name) for section in vars(RunConfig()).values() for field in dataclasses.fields(section)}
FLAG = re.compile(r"(?<!\S)--[a-z][a-z0-9-]*")
PATH = re.compile(
    r"(?<![\w./*-])(?:\./)?((?:examples|slurm|tools|tests|megatron_pz|benchmarks|requirements)/[\w./-]*\w)"
)


def commands(page: Path) -> Iterator[str]:
    """Yield the lines of indented blocks and code spans, without comments; a final backslash joins the next line."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    blocks = re.findall(r"^    (.+)$", text, re.MULTILINE)
    for line in blocks + re.findall(r"`([^`\n]+)`", text):
        yield re.sub(r"\s#\s.*", "", line)


def known_flags(command: str) -> tuple[str, set[str]] | None:
    """Return the part of a command with its program's flags, and the flags of that program; None for other commands."""
    scripts = {
        r"tools/doctor\.py(.*)": OF_A_RUN | {"--config", "--json"},
        r"-m megatron_pz\.(?:train|cold_start|baselines|rlvr)\b(.*)": OF_A_RUN | {"--config", "--help"},
        r"slurm/(?:pz|rlvr)_\w+\.sh(.*)": OF_A_RUN | {"--print", "--check"},
    }
    for pattern, flags in scripts.items():
        if found := re.search(pattern, command):
            return found[1], flags
    if found := re.search(
        r"(tools/\w+\.py|benchmarks\.[\w.]+|\S+/(?:quickstart|run)\.sh|slurm/scaling\.sh)(.*)", command
    ):
        name = found[1].removeprefix("./")
        source = (ROOT / (name if "/" in name else name.replace(".", "/") + ".py")).read_text(encoding="utf-8")
        return found[2], {"--help", *re.findall(r"--[a-z][a-z0-9-]*", source)}
    return None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_path_is_there(page: Path) -> None:
    named = set(PATH.findall(page.read_text(encoding="utf-8")))
    assert not [path for path in named if not (ROOT / path).exists()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_flag_is_one_of_its_command(page: Path) -> None:
    unknown = []
    for command in commands(page):
        if found := known_flags(command):
            unknown += [f"{given} in: {command}" for given in FLAG.findall(found[0]) if given not in found[1]]
    assert not unknown


LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(text: str, page: Path) -> list[str]:
    """Return the links of a page to files or headings that do not exist; links to other sites are not followed."""
    broken = []
    for target in LINK.findall(text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(target)
    return broken


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    assert broken_links(page.read_text(encoding="utf-8"), page) == []


def test_a_broken_link_is_found() -> None:
    text = "[a](docs/none.md) [b](LICENSE) [c](README.md#no-such-heading) [d](https://example.org/x) [e](#licence)"
    assert broken_links(text, ROOT / "README.md") == ["docs/none.md", "README.md#no-such-heading"]


def test_the_readme_is_one_page() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 120


def test_there_is_something_to_check() -> None:
    """The check finds commands, and would find a wrong flag."""
    seen = [found for page in PAGES for command in commands(page) if (found := known_flags(command))]
    assert sum(len(FLAG.findall(given)) for given, _ in seen) > 30
    found = known_flags("torchrun --nproc-per-node 2 -m megatron_pz.train --config x --train-steps 3")
    assert found and set(FLAG.findall(found[0])) - found[1] == {"--train-steps"}
