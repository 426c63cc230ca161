"""Read a dump's own templates before its articles, to render templates that are in no table.

The result depends only on the dump, so the articles are the same for any number of workers. It is stored in the working
directory, so that a resumed run does not repeat the pass.
"""

from __future__ import annotations

import bz2
import functools
import itertools
import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

from megatron_pz.runtime.errors import BadInput
from megatron_pz.runtime.files import written_whole
from megatron_pz.wikipedia.pipeline.options import PreprocessOptions
from megatron_pz.wikipedia.pipeline.pool import Stopped, map_unordered
from megatron_pz.wikipedia.read.compression import begins_stream
from megatron_pz.wikipedia.read.damage import DamageLog
from megatron_pz.wikipedia.read.dump import SiteInfo, read_pages
from megatron_pz.wikipedia.read.page import PageError
from megatron_pz.wikipedia.read.streams import Job, input_kind, plan_jobs
from megatron_pz.wikitext.localization import TEMPLATE, Namespaces, is_redirect, redirect_target
from megatron_pz.wikitext.templates.from_dump import by_name, summary

CHEAP_BYTES: Final = 64 << 20
"""Size of a bz2 or gzip file without an index up to which ``auto`` decompresses it a second time."""

_HEAD: Final = 4
"""Bytes that show that a bz2 stream begins."""
_INDEX_ENTRY = re.compile(r"(\d{1,18}):\d+:(.+)\n?", re.ASCII)

_Numbered = tuple[int, Job]
_Found = dict[str, str]


def learn_templates(
    options: PreprocessOptions, sites: Mapping[str, SiteInfo], work: Path
) -> dict[str, Mapping[str, str]]:
    """Read the templates of the dumps among the inputs.

    Returns:
        For each input, the :func:`~megatron_pz.wikitext.templates.from_dump.summary` of each template of its wiki that
        can be understood, by normalised name. Several files of one wiki share their templates.
    """
    of_wiki: dict[str, _Found] = {}  # by title
    for number, (path, site) in enumerate(sites.items()):
        if not _is_read(options, path):
            continue
        kept = work / f"templates-{number}.json"
        if not kept.exists():
            found: _Found = {}
            jobs = enumerate(_template_jobs(path, site, options.run.skip_damaged))
            parts = dict(map_unordered(functools.partial(_templates_of, site), jobs, options.run.workers))
            for job in sorted(parts):
                found |= parts[job]
            with written_whole(kept) as file:
                file.write(json.dumps(found, ensure_ascii=False).encode("utf-8", "surrogatepass"))
        of_file = json.loads(kept.read_bytes().decode("utf-8", "surrogatepass"))
        of_wiki.setdefault(site.article_url, {}).update(of_file)
    named = {wiki: by_name(found) for wiki, found in of_wiki.items()}
    return {path: named[site.article_url] for path, site in sites.items() if site.article_url in named}


def _is_read(options: PreprocessOptions, path: str) -> bool:
    wanted = options.articles.templates
    if wanted != "auto":
        return wanted == "dump"
    is_small = Path(path).stat().st_size <= CHEAP_BYTES
    if options.output.limit:  # a dry run does not have to read all inputs
        return is_small
    return is_small or input_kind(path).compression in ("none", "zst") or _index_of(path) is not None


def _index_of(path: str) -> Path | None:
    """Return the index that Wikimedia publishes beside a multi-stream dump, if it exists."""
    name = Path(path).name
    if "-multistream" not in name or not name.endswith(".bz2"):
        return None
    before, _, after = name.removesuffix(".bz2").partition("-multistream")
    index = Path(path).with_name(f"{before}-multistream-index{after.replace('.xml', '.txt', 1)}.bz2")
    return index if index.is_file() else None


def _template_jobs(path: str, site: SiteInfo, skip_damaged: bool = False) -> Iterator[Job]:
    """Yield the jobs with templates: all jobs of the file, or the streams in which its index lists templates."""
    index = _index_of(path)
    if index is None:
        yield from plan_jobs(path, DamageLog(skip=True))
        return
    numbers = Namespaces(site.language, site.namespaces)
    size = Path(path).stat().st_size
    begin = -1
    for offset, pages in itertools.groupby(_index_entries(index, path, skip_damaged), lambda entry: entry[0]):
        if begin >= 0:
            yield Job(path, input_kind(path), begin, offset)
        holds_templates = any(numbers.number_of(title) == TEMPLATE for _, title in pages)
        begin = offset if holds_templates else -1
    if begin >= 0:
        yield Job(path, input_kind(path), begin, size)


def _index_entries(index: Path, path: str, skip_damaged: bool) -> Iterator[tuple[int, str]]:
    """Yield (offset of its stream, title) for every page that an index lists.

    Raise :class:`BadInput` if the index is damaged. The same holds for an index of another dump, unless damage of the
    dump is skipped, which looks the same.
    """
    known, size = -1, Path(path).stat().st_size
    try:
        with bz2.open(index, "rt", encoding="utf-8") as lines, Path(path).open("rb") as dump:
            for line in lines:
                entry = _INDEX_ENTRY.fullmatch(line)
                if entry is None:
                    raise BadInput(f"{index}: {line[:80].strip()!r} is not offset:id:title; remove it or give another")
                offset = int(entry[1])
                if offset != known and offset < size and not skip_damaged:
                    dump.seek(offset)
                    if not begins_stream("bz2", dump.read(_HEAD)):
                        raise BadInput(
                            f"{index}: lists byte {offset} of {path}, where no stream begins; download both again, or "
                            "remove the index"
                        )
                known = offset
                yield offset, entry[2]
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise BadInput(f"{index}: is damaged ({error}); download it again or remove it") from None


def _templates_of(site: SiteInfo, task: _Numbered, is_stopped: Callable[[], bool]) -> tuple[int, _Found]:
    """Return the summaries of one job's templates by title, empty for a template that is not understood.

    Damage is ignored here; the pass over the articles reports it.
    """
    number, job = task
    numbers = Namespaces(site.language, site.namespaces)
    found: _Found = {}
    # By Python's own decompressor: the library's abort on one kind of damage is caught by the pass over the articles,
    # which keeps finished jobs and goes on without the library.
    for page, _ in read_pages(job, DamageLog(skip=True), whole_streams=False):
        if is_stopped():
            raise Stopped
        namespace = numbers.number_of(page.title) if page.namespace is None else page.namespace
        if namespace != TEMPLATE:
            continue
        try:
            text = page.text
        except PageError:
            continue
        redirect = page.redirect or (redirect_target(text) if is_redirect(text, site.language) else None)
        found[page.title.partition(":")[2]] = summary(text, redirect, site.language) or ""
    return number, found
