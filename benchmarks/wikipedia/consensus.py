"""Compare the scanner's text with the consensus of five other tools, on articles not used during its development.

    python -m benchmarks.wikipedia.consensus DUMP.xml.bz2 [--half held-out] [--show 20]

Half of the articles are held out by a hash of their titles (see ``is_held_out``); the other half (``--half open``) is
for development. The peers are installed into a separate environment under .cache/, never into the project's.

A 6-gram is six words in a row of one line (words casefolded and in compatibility form, so that ⁷ is 7). The consensus
of an article holds those that at least three of the five peers give.
 - recall: how much of the consensus the tool gives;
 - precision: how much of what the tool gives at least one other peer gives too.
All tools get the same wikitext: articles without their closing sections (References, External links, …), which the
scanner drops by design. The scanner keeps headings here, as the peers do. The peers drop all templates and cannot judge
what the scanner makes of a quantity, a date or a foreign word; so the first table is over articles from which the
templates that the scanner renders have been cut out, and the second over the articles as they are.
"""

from __future__ import annotations

import argparse
import bz2
import hashlib
import html
import json
import re
import subprocess
import time
import unicodedata
import venv
from collections import Counter
from pathlib import Path

from megatron_pz.config.command_line import Parser
from megatron_pz.runtime.errors import BadInput, exits_with_one_line
from megatron_pz.wikitext import scanner_form
from megatron_pz.wikitext.extract import TextOptions, wikitext_to_paragraphs
from megatron_pz.wikitext.localization import Wiki, trailing_sections
from megatron_pz.wikitext.templates import shown_name

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".cache" / "wikitext_peers"
PACKAGES = ["mwparserfromhell==0.7.2", "wikitextparser==3.0.0", "gensim==4.4.0", "wikiextractor==3.1.0"]
PEERS = (
    "gensim filter_wiki",
    "mwparserfromhell strip_code",
    "mwparserfromhell, pruned",
    "wikitextparser plain_text",
    "wikiextractor",
)
OWN = "this project"
MAJORITY = 3
ORDER = 6

LEFTOVERS = {
    "`{{` `}}`": r"\{\{|\}\}",
    "`[[` `]]`": r"\[\[|\]\]",
    "`<ref`": r"<ref",
    "`''`": r"''",
    "`{|`": r"\{\|",
    "entities": r"&(?:[a-zA-Z]{2,8}|#\d+);",
    "empty parentheses": r"\([\s,;]*\)|\(\s*[,;]",
}

_PAGE = re.compile(r"<title>(.*?)</title>.*?<text[^>]*>(.*?)</text>", re.DOTALL)
_HEADING = re.compile(r"^(={2,6})\s*(.*?)\s*\1\s*$", re.MULTILINE)
_INNERMOST_TEMPLATE = re.compile(r"\{\{([^{}|]*)(?:\|[^{}]*)?\}\}")
_WORD = re.compile(r"\w+")


def is_held_out(title: str) -> bool:
    """Decide by a hash whether an article is in the held-out half."""
    return hashlib.blake2b(title.encode(), digest_size=1).digest()[0] % 2 == 1


def read_articles(dump: Path, held_out: bool) -> list[dict[str, str]]:
    xml = bz2.decompress(dump.read_bytes()).decode()
    pages = ((html.unescape(title), html.unescape(text)) for title, text in _PAGE.findall(xml))
    return [
        {"title": title, "wikitext": without_closing_sections(text)}
        for title, text in pages
        if ":" not in title and not text.lstrip().lower().startswith("#redirect") and is_held_out(title) == held_out
    ]


def without_closing_sections(text: str) -> str:
    closing = trailing_sections("en")
    kept, start, skipped = "", 0, 0
    for heading in _HEADING.finditer(text):
        level = len(heading[1])
        if skipped and level > skipped:
            continue
        if not skipped:
            kept += text[start : heading.start()]
        start = heading.start()
        skipped = level if heading[2].strip("' ").casefold() in closing else 0
    return kept if skipped else kept + text[start:]


def without_rendered_templates(text: str) -> str:
    """Remove the templates that leave text from the wikitext, innermost first."""

    def kept(template: re.Match[str]) -> str:
        return "" if shown_name(template[1], False) else template[0].replace("{{", "\0").replace("}}", "\1")

    while (shorter := _INNERMOST_TEMPLATE.sub(kept, text)) != text:
        text = shorter
    return text.replace("\0", "{{").replace("\1", "}}")


def peer_texts(articles: list[dict[str, str]]) -> dict[str, tuple[list[str], float]]:
    """Return the texts and the CPU seconds of every peer."""
    python = CACHE / "bin" / "python"
    if not python.exists():
        venv.create(CACHE, with_pip=True)
    subprocess.run([python, "-m", "pip", "install", "--quiet", *PACKAGES], check=True)
    source = CACHE / "articles.jsonl"
    source.write_text("".join(json.dumps(article) + "\n" for article in articles), encoding="utf-8")
    found = {}
    for peer in PEERS:
        target = CACHE / "texts.jsonl"
        script = Path(__file__).with_name("text_peers.py")
        subprocess.run([python, script, source, peer, target], check=True)
        *texts, seconds = [json.loads(line) for line in target.read_text(encoding="utf-8").splitlines()]
        found[peer] = texts, float(seconds)
    return found


def ngrams(text: str) -> set[tuple[str, ...]]:
    """Return the 6-grams of every line."""
    found: set[tuple[str, ...]] = set()
    for line in unicodedata.normalize("NFKC", text).casefold().split("\n"):
        words = _WORD.findall(line)
        found.update(tuple(words[start : start + ORDER]) for start in range(len(words) - ORDER + 1))
    return found


def own_texts(articles: list[dict[str, str]]) -> tuple[list[str], float]:
    """Return the scanner's texts and its CPU seconds."""
    options = TextOptions.keeping("headings")
    start = time.process_time()
    texts = [
        "\n".join(wikitext_to_paragraphs(article["wikitext"], article["title"], options=options))
        for article in articles
    ]
    return texts, time.process_time() - start


def interpreted_speed(articles: list[dict[str, str]]) -> float:
    """Return the interpreted form's MB of wikitext per CPU second, and require the installed form's results of it."""
    interpreted = scanner_form.load_interpreted()
    start = time.process_time()
    found = [interpreted(article["wikitext"], article["title"], Wiki(), TextOptions().kept) for article in articles]
    seconds = time.process_time() - start
    for article, paragraphs in zip(articles, found, strict=True):
        if paragraphs != wikitext_to_paragraphs(article["wikitext"], article["title"]):
            raise BadInput(f"the two forms of the scanner differ on {article['title']}")
    return sum(len(article["wikitext"].encode()) for article in articles) / 1e6 / seconds


def compare(articles: list[dict[str, str]], most_shown: int) -> None:
    """Print the table of recall and precision, and some differences of every article."""
    tools = {OWN: own_texts(articles)} | peer_texts(articles)
    scores = {name: Counter[str]() for name in tools}
    for number, article in enumerate(articles):
        grams = {name: ngrams(texts[number]) for name, (texts, _) in tools.items()}
        votes = Counter(gram for peer in PEERS for gram in grams[peer])
        consensus = {gram for gram, count in votes.items() if count >= MAJORITY}
        for name, given in grams.items():
            own_votes = 0 if name == OWN else 1
            scores[name]["consensus"] += len(consensus)
            scores[name]["found"] += len(consensus & given)
            scores[name]["given"] += len(given)
            scores[name]["supported"] += sum(votes[gram] > own_votes for gram in given)
        for sign, differences in (("-", consensus - grams[OWN]), ("+", grams[OWN] - votes.keys())):
            for gram in sorted(differences)[:most_shown]:
                print(f"{sign} {article['title']}: {' '.join(gram)}")
    size = sum(len(article["wikitext"].encode()) for article in articles) / 1e6
    print("\n| tool | recall | precision | MB a CPU second |\n|---|---|---|---|")
    for name, (_, seconds) in tools.items():
        score = scores[name]
        recall, precision = score["found"] / score["consensus"], score["supported"] / score["given"]
        speed = f"{size / seconds:.1f}" if name != "wikiextractor" else "a process of its own"
        print(f"| {name} | {recall:.4f} | {precision:.4f} | {speed} |")
    print(f"\n| left over in {len(articles)} articles | {' | '.join(tools)} |\n|---|{'---|' * len(tools)}")
    for name, pattern in LEFTOVERS.items():
        counts = (sum(len(re.findall(pattern, text)) for text in texts) for texts, _ in tools.values())
        print(f"| {name} | {' | '.join(map(str, counts))} |")


@exits_with_one_line
def main() -> None:
    parser = Parser(__doc__ or "")
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("dump", type=Path, help="a small .xml.bz2 dump")
    parser.add_argument("--half", choices=("held-out", "open"), default="held-out", help="of the articles")
    parser.add_argument("--show", type=int, default=0, help="most differences to show of an article of the open half")
    flags = parser.parse_args()
    if flags.show and flags.half != "open":
        raise BadInput("--show would show held-out articles; use it with --half open")
    if not flags.dump.is_file():
        raise BadInput(
            f"{flags.dump}: no such file; ./examples/quickstart.sh leaves one, .cache/quickstart/assets/enwiki.xml.bz2"
        )
    articles = read_articles(flags.dump, flags.half == "held-out")
    size = sum(len(article["wikitext"].encode()) for article in articles) / 1e6
    print(f"{len(articles)} articles ({flags.half}), {size:.1f} MB of wikitext; scanner {scanner_form.FORM}")
    print(f"The interpreted form gives the same, at {interpreted_speed(articles):.1f} MB a CPU second.")
    print("\nWithout the templates that the scanner renders:")
    compare([a | {"wikitext": without_rendered_templates(a["wikitext"])} for a in articles], flags.show)
    print("\nAs they are:")
    compare(articles, 0)


if __name__ == "__main__":
    main()
