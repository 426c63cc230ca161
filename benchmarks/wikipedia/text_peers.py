"""Produce other tools' text of the same articles; consensus.py runs this in their environment.

    python text_peers.py ARTICLES.jsonl PEER OUTPUT.jsonl

Every line is an article {"title", "wikitext"}; the output has one text per line, in the same order, and at the end the
CPU seconds of the conversion.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from xml.sax.saxutils import escape

Convert = Callable[[str], str]


def gensim_filter() -> Convert:
    from gensim.corpora.wikicorpus import filter_wiki

    return filter_wiki


def strip_code() -> Convert:
    import mwparserfromhell

    return lambda text: mwparserfromhell.parse(text).strip_code()


def parsed_and_pruned() -> Convert:
    """Convert as the scripts of published Wikipedia datasets do: parse, remove everything but prose, then strip."""
    import mwparserfromhell

    silent = re.compile(r"^(?:file|image|category)\s*:", re.IGNORECASE)

    def convert(text: str) -> str:
        code = mwparserfromhell.parse(text)
        for tag in code.filter_tags(matches=lambda node: str(node.tag).lower() in ("ref", "table", "gallery", "math")):
            remove(code, tag)
        for link in code.filter_wikilinks(matches=lambda node: silent.match(str(node.title).strip())):
            remove(code, link)
        for template in code.filter_templates(recursive=False):
            remove(code, template)
        return code.strip_code()

    def remove(code, node) -> None:
        try:
            code.remove(node)
        except ValueError:  # it was inside a node that is already removed
            return

    return convert


def plain_text() -> Convert:
    import wikitextparser

    return lambda text: wikitextparser.parse(text).plain_text()


def wikiextractor(articles: list[dict[str, str]]) -> list[str]:
    """Run WikiExtractor's command over a dump made from the articles."""
    with tempfile.TemporaryDirectory() as folder:
        dump = Path(folder, "dump.xml")
        pages = "".join(
            f"<page><title>{escape(article['title'])}</title><ns>0</ns><id>{number}</id><revision><id>1</id>"
            f'<text xml:space="preserve">{escape(article["wikitext"])}</text></revision></page>\n'.replace(
                "<page>", "<page>\n"
            )
            .replace("</title>", "</title>\n")
            .replace("</ns>", "</ns>\n")
            .replace("</id>", "</id>\n")
            .replace("<revision>", "<revision>\n")
            .replace("</text>", "</text>\n")
            .replace("</revision>", "</revision>\n")
            for number, article in enumerate(articles, start=1)
        )
        head = "<siteinfo>\n<sitename>Wikipedia</sitename>\n<base>https://en.wikipedia.org/wiki/Main_Page</base>\n"
        names = (
            '<namespaces>\n<namespace key="10" case="first-letter">Template</namespace>\n</namespaces>\n</siteinfo>\n'
        )
        dump.write_text(f"<mediawiki>\n{head}{names}{pages}</mediawiki>\n", encoding="utf-8")
        command = [sys.executable, "-m", "wikiextractor.WikiExtractor", "--json", "--no-templates", "--processes", "1"]
        subprocess.run([*command, "-o", f"{folder}/out", str(dump)], check=True, capture_output=True)
        texts = [""] * len(articles)
        for part in Path(folder, "out").rglob("wiki_*"):
            for line in part.read_text(encoding="utf-8").splitlines():
                record = json.loads(line)
                texts[int(record["id"]) - 1] = record["text"]
        return texts


PEERS: dict[str, Callable[[], Convert]] = {
    "gensim filter_wiki": gensim_filter,
    "mwparserfromhell strip_code": strip_code,
    "mwparserfromhell, pruned": parsed_and_pruned,
    "wikitextparser plain_text": plain_text,
}


def main() -> None:
    source, peer, target = sys.argv[1:]
    articles = [json.loads(line) for line in Path(source).read_text(encoding="utf-8").splitlines()]
    convert = PEERS[peer]() if peer in PEERS else None
    start = time.process_time()
    texts = [convert(article["wikitext"]) for article in articles] if convert else wikiextractor(articles)
    seconds = time.process_time() - start
    lines = [json.dumps(text) for text in [*texts, f"{seconds:.3f}"]]
    Path(target).write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
