"""The dump reader, compared with a general XML parser, on dumps cut in every way, and on damaged ones."""

from __future__ import annotations

import bz2
import io
import itertools
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree
from xml.sax.saxutils import escape

import pytest

from megatron_pz.runtime.errors import BadInput
from megatron_pz.wikipedia.read import streams
from megatron_pz.wikipedia.read.damage import DamageLog
from megatron_pz.wikipedia.read.dump import read_pages, read_siteinfo
from megatron_pz.wikipedia.read.page import Page
from megatron_pz.wikipedia.read.streams import plan_jobs

HEADER = """<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/" version="0.11" xml:lang="de">
  <siteinfo>
    <sitename>Wikipedia</sitename>
    <dbname>dewiki</dbname>
    <base>https://de.wikipedia.org/wiki/Wikipedia:Hauptseite</base>
    <namespaces>
      <namespace key="0" case="first-letter" />
      <namespace key="6" case="first-letter">Datei</namespace>
    </namespaces>
  </siteinfo>
"""
END = "</mediawiki>\n"
TEXTS = (
    "plain",
    "",
    'Markup &amp; <ref name="a">quoted "text"</ref> <page> &lt;page&gt; </text>',
    "Zürich 東京 𝒳 &#38; 'apostrophes'\n\ttabs",
    "long " * 3000,
)


def page_xml(number: int) -> str:
    text = TEXTS[number % len(TEXTS)]
    redirect = '    <redirect title="Ziel &amp; &quot;Zweck&quot;" />\n' if number % 4 == 3 else ""
    body = f'<text bytes="9" xml:space="preserve">{escape(text)}</text>' if text else '<text bytes="0" />'
    return f"""  <page>
    <title>Seite {number} &amp; mehr</title>
    <ns>{0 if number % 3 else 4}</ns>
    <id>{100 + number}</id>
{redirect}    <revision>
      <id>{9000 + number}</id>
      <contributor><username>N</username><id>7</id></contributor>
      <comment>&lt;page&gt; &lt;id&gt;1&lt;/id&gt;</comment>
      {body}
    </revision>
  </page>
"""


def whole_dump(pages: int = 23) -> str:
    return HEADER + "".join(page_xml(number) for number in range(pages)) + END


@dataclass(frozen=True)
class Expected:
    """A page as the standard library's parser finds it."""

    page_id: str
    revision_id: str
    title: str
    namespace: int
    redirect: str | None
    text: str


def expected_pages(xml: str) -> list[Expected]:
    """Return the pages that the standard library's parser finds."""
    space = "{http://www.mediawiki.org/xml/export-0.11/}"
    pages = []
    for element in ElementTree.parse(io.BytesIO(xml.encode())).getroot().iter(f"{space}page"):
        redirect = element.find(f"{space}redirect")
        pages.append(
            Expected(
                page_id=element.findtext(f"{space}id") or "",
                revision_id=element.findtext(f"{space}revision/{space}id") or "",
                title=element.findtext(f"{space}title") or "",
                namespace=int(element.findtext(f"{space}ns") or ""),
                redirect=None if redirect is None else redirect.get("title"),
                text=element.findtext(f"{space}revision/{space}text") or "",
            )
        )
    return pages


def bz2_streams(xml: bytes, size: int) -> bytes:
    """Return a bz2 file whose streams are cut at every ``size`` bytes, also within pages."""
    return b"".join(bz2.compress(xml[start : start + size]) for start in range(0, len(xml), size))


def pages_of(path: Path) -> list[Expected]:
    return [found(page) for job in plan_jobs(str(path)) for page, _ in read_pages(job)]


def found(page: Page) -> Expected:
    return Expected(page.page_id, page.revision_id, page.title, page.namespace, page.redirect, page.text)


@pytest.fixture
def small_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "JOB_BYTES", {"bz2": 600, "none": 1000, "zst": 600})
    monkeypatch.setattr(streams, "ONE_STREAM_JOB_BYTES", 2000)
    monkeypatch.setattr(streams, "_READ", 512)
    monkeypatch.setattr(streams, "LARGEST_BLOCK", 700)


@pytest.mark.usefixtures("small_jobs")
@pytest.mark.parametrize("stream_size", [97, 1000, 4096, 10**9])
def test_every_cut_of_a_bz2_file_gives_the_pages_once(tmp_path: Path, stream_size: int) -> None:
    xml = whole_dump()
    path = tmp_path / "dump.xml.bz2"
    path.write_bytes(bz2_streams(xml.encode(), stream_size))
    assert len(list(plan_jobs(str(path)))) > 1
    assert pages_of(path) == expected_pages(xml)


@pytest.mark.usefixtures("small_jobs")
def test_jobs_of_plain_xml_share_the_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    xml = whole_dump()
    path = tmp_path / "dump.xml"
    path.write_text(xml)
    for size in (1, 61, 333, 5000):
        monkeypatch.setitem(streams.JOB_BYTES, "none", size)
        pages = pages_of(path) if size > 1 else pages_of_every_byte(path, xml)
        assert pages == expected_pages(xml)


def pages_of_every_byte(path: Path, xml: str) -> list[Expected]:
    """Return the pages of jobs that begin at each byte around the first page's tag."""
    first = xml.encode().index(b"<page>")
    size = path.stat().st_size
    edges = [0, *range(first - 3, first + 9), size]
    return [
        found(page)
        for start, end in itertools.pairwise(edges)
        for page, _ in read_pages(streams.Job(str(path), streams.InputKind("xml"), start, end))
    ]


def test_siteinfo(tmp_path: Path) -> None:
    path = tmp_path / "dump.xml"
    path.write_text(whole_dump(1))
    site = read_siteinfo(str(path))
    assert (site.language, site.name, site.article_url) == ("de", "dewiki", "https://de.wikipedia.org/wiki/")
    assert site.namespaces == {0: "", 6: "Datei"}


def test_a_namespace_without_a_number_is_none(tmp_path: Path) -> None:
    path = tmp_path / "dump.xml"
    path.write_text(
        whole_dump(1).replace("</namespaces>", '<namespace key="x">Y</namespace><namespace /></namespaces>')
    )
    assert read_siteinfo(str(path)).namespaces == {0: "", 6: "Datei"}


@pytest.mark.parametrize("cut", [0.3, 0.9, 0.999])
@pytest.mark.parametrize("stream_size", [3000, 10**9])
def test_a_truncated_file_is_named_with_its_byte(tmp_path: Path, cut: float, stream_size: int) -> None:
    whole = bz2_streams(whole_dump().encode(), stream_size)
    path = tmp_path / "dump.xml.bz2"
    size = int(len(whole) * cut)
    path.write_bytes(whole[:size])
    with pytest.raises(BadInput, match=rf"dump.xml.bz2: is truncated: it ends at byte {size}\b"):
        pages_of(path)


def test_a_file_that_ends_between_two_streams_is_truncated(tmp_path: Path) -> None:
    xml = whole_dump(6)
    cut = xml.index("<page>", len(xml) // 2)
    path = tmp_path / "dump.xml.bz2"
    path.write_bytes(bz2.compress(HEADER.encode()) + bz2.compress(xml[len(HEADER) : cut].encode()))
    with pytest.raises(BadInput, match=r"without </mediawiki>"):
        pages_of(path)


def test_a_damaged_stream_is_named_with_its_byte(tmp_path: Path) -> None:
    parts = [bz2.compress(part.encode()) for part in (HEADER, *(page_xml(n) for n in range(5)), END)]
    start = sum(map(len, parts[:3]))
    damaged = bytearray(b"".join(parts))
    damaged[start + len(parts[3]) // 2] ^= 0xFF
    path = tmp_path / "dump.xml.bz2"
    path.write_bytes(damaged)
    with pytest.raises(BadInput, match=rf"in the bz2 stream that begins at byte {start};"):
        pages_of(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"PK\x03\x04", "neither"),
        (b"BZh9 and then nothing of the kind", "in the bz2 stream that begins at byte 0"),
        (b"<html><body></body></html>", "without </mediawiki>"),
    ],
)
def test_what_is_no_dump_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(BadInput, match=words):
        pages_of(path)
        read_siteinfo(str(path))


def test_xml_that_is_no_dump_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"<mediawiki></mediawiki>")
    with pytest.raises(BadInput, match="no <siteinfo>"):
        read_siteinfo(str(path))


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="cannot be read"):
        read_siteinfo(str(tmp_path / "nothing.xml.bz2"))


def test_a_page_without_an_end_is_named(tmp_path: Path) -> None:
    path = tmp_path / "dump.xml"
    path.write_text(whole_dump(1).replace("</page>", "</pag>"))
    with pytest.raises(BadInput, match="truncated: a page that begins after byte"):
        pages_of(path)
    path.write_text(whole_dump(3).replace("</page>", "</pag>"))
    with pytest.raises(BadInput, match="a page near byte 0 has no </page>"):
        pages_of(path)


@pytest.mark.usefixtures("small_jobs")
@pytest.mark.parametrize("last", ["<title>Cut", "</title>", "<revision>", "</text>"])
def test_a_page_that_is_cut_off_does_not_take_the_text_of_the_next(tmp_path: Path, last: str) -> None:
    path = tmp_path / "dump.xml"
    cut = page_xml(4).replace("Seite", "Cut")
    cut = cut[: cut.rindex(last) + len(last)]
    path.write_text(HEADER + cut + page_xml(2) + page_xml(3) + END)
    for size in (100, 10_000):
        streams.JOB_BYTES["none"] = size
        log = DamageLog(skip=True)
        pages = [found(page) for job in plan_jobs(str(path)) for page, _ in read_pages(job, log)]
        assert pages == expected_pages(HEADER + page_xml(2) + page_xml(3) + END)
        assert len(log.found) == 1


@pytest.mark.parametrize("block", [100, 5000, 1 << 20])
def test_pages_after_one_without_an_end_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr("megatron_pz.wikipedia.read.dump.LARGEST_PAGE", 40_000)
    monkeypatch.setattr(streams, "_READ", block)
    path = tmp_path / "dump.xml"
    path.write_text(HEADER + "<page>" + "lost " * 9000 + page_xml(1) + page_xml(2) + END)
    log = DamageLog(skip=True)
    pages = [found(page) for job in plan_jobs(str(path)) for page, _ in read_pages(job, log)]
    assert pages == expected_pages(HEADER + page_xml(1) + page_xml(2) + END)
    assert [damage.reason.partition(" before")[0] for damage in log.found] == ["no </page> in 40000 bytes"]


def only_page(tmp_path: Path, page: str, header: str = HEADER) -> Page:
    """Return the only page of a dump."""
    path = tmp_path / "dump.xml"
    path.write_text(f"{header}<page>{page}</page>{END}")
    ((found_page, _),) = [pair for job in plan_jobs(str(path)) for pair in read_pages(job)]
    return found_page


def revision(text: str, time: str = "", number: int = 1, more: str = "") -> str:
    stamp = f"<timestamp>{time}</timestamp>" if time else ""
    return f'<revision><id>{number}</id>{stamp}{more}<text xml:space="preserve">{text}</text></revision>'


@pytest.mark.parametrize(
    ("fields", "namespace", "redirect"),
    [
        ("<title>A</title><ns>0</ns><id>1</id>", 0, None),
        ("<title>A</title><id>1</id>", None, None),
        ("<title>A</title><id>1</id><restrictions>sysop</restrictions>", None, None),
        ("<title>A</title><id>1</id><redirect />", None, ""),
        ("<title>A</title><ns>0</ns><id>1</id><redirect/>", 0, ""),
        ('<title>A</title><ns>0</ns><id>1</id><redirect title="B &amp; C" />', 0, "B & C"),
        ("<title>A</title><id>1</id><ns>10</ns>", 10, None),
        ("<id>1</id><title>A</title><ns>0</ns>", 0, None),
        ("<title><![CDATA[A]]></title><ns>4</ns><id>1</id>", 4, None),
    ],
)
def test_fields_of_all_ages(tmp_path: Path, fields: str, namespace: int | None, redirect: str | None) -> None:
    page = only_page(tmp_path, fields + revision("text &lt;b&gt;"))
    assert (page.page_id, page.title, page.text) == ("1", "A", "text <b>")
    assert (page.namespace, page.redirect) == (namespace, redirect)


FIELDS = "<title>A</title><ns>0</ns><id>1</id>"


@pytest.mark.parametrize("title", ["<title></title>", '<title deleted="deleted" />', "<title> </title>"])
def test_a_page_without_a_title_is_named(tmp_path: Path, title: str) -> None:
    with pytest.raises(BadInput, match="lacks its title or id"):
        only_page(tmp_path, f"{title}<ns>0</ns><id>1</id>" + revision("text"))


def test_cdata_is_text(tmp_path: Path) -> None:
    assert only_page(tmp_path, FIELDS + revision("<![CDATA[a <b> & c]]> d")).text == "a <b> & c d"
    assert only_page(tmp_path, FIELDS + revision("x <!-- no --> y")).text == "x  y"


def test_cdata_that_spells_the_end_of_a_page_is_text(tmp_path: Path) -> None:
    page = "a </page> <page> b </text> c"
    assert only_page(tmp_path, FIELDS + revision(f"<![CDATA[{page}]]> d")).text == f"{page} d"
    longer = f"{page} {'more ' * 1_000_000}"  # ends in a later block of the reader
    assert only_page(tmp_path, FIELDS + revision(f"<![CDATA[{longer}]]> d")).text == f"{longer} d"


def test_a_page_or_revision_without_text_is_empty(tmp_path: Path) -> None:
    for rest in ("", "<revision><id>5</id></revision>", '<revision><id>5</id><text deleted="deleted" /></revision>'):
        assert only_page(tmp_path, FIELDS + rest).text == ""
    later = "<revision><id>9</id><timestamp>2011-01-01T00:00:00Z</timestamp></revision>"
    page = only_page(tmp_path, FIELDS + revision("old", "2010-01-01T00:00:00Z") + later)
    assert (page.revision_id, page.text) == ("9", "")
    page = only_page(tmp_path, FIELDS + later + revision("old", "2010-01-01T00:00:00Z"))
    assert (page.revision_id, page.text) == ("9", "")


def test_the_newest_revision_counts_wherever_it_stands(tmp_path: Path) -> None:
    times = ["2019-05-01T00:00:00Z", "2021-01-01T00:00:00Z", "2020-12-31T23:59:59Z"]
    for order in itertools.permutations(range(3)):
        revisions = "".join(revision(f"text {n}", times[n], n) for n in order)
        page = only_page(tmp_path, FIELDS + revisions)
        assert (page.revision_id, page.text) == ("1", "text 1")
    page = only_page(tmp_path, FIELDS + revision("a", number=1) + revision("b", number=2))
    assert page.text == "b"
    page = only_page(tmp_path, FIELDS + revision("<![CDATA[new]]>", times[1]) + revision("old", times[0]))
    assert page.text == "new"


def test_the_content_model(tmp_path: Path) -> None:
    assert only_page(tmp_path, FIELDS + revision("x")).model == "wikitext"
    assert only_page(tmp_path, FIELDS + revision("x", more="<model>Scribunto</model>")).model == "Scribunto"
    assert only_page(tmp_path, FIELDS + revision("x", more="<model> wikitext\n</model>")).model == "wikitext"
    assert only_page(tmp_path, FIELDS + revision("x", more="<model></model>")).model == "wikitext"
    behind = revision("x").replace("</revision>", "<model>json</model><format>text/json</format></revision>")
    assert only_page(tmp_path, FIELDS + behind).model == "json"


@pytest.mark.parametrize(
    ("name", "base", "declared", "language"),
    [
        ("simplewiki", "https://simple.wikipedia.org/wiki/Main_Page", "en", "simple"),
        ("nowiki", "https://no.wikipedia.org/wiki/Forside", "nb", "no"),
        ("zh_yuewiki", "https://zh-yue.wikipedia.org/wiki/X", "yue", "zh-yue"),
        ("", "https://simple.wikipedia.org/wiki/Main_Page", "en", "simple"),
        ("", "https://de.m.wikipedia.org/wiki/X", "", "de"),
        ("", "//ja.wikipedia.org/wiki/X", "", "ja"),
        ("commonswiki", "https://commons.wikimedia.org/wiki/X", "en", "en"),
        ("mywiki", "https://my.wikipedia.org/wiki/X", "my", "my"),
        ("in_house", "https://wiki.example.com/wiki/X", "nb", "no"),
        ("in_house", "", "pt-BR", "pt"),
        ("in_house", "", "zh-Hant", "zh"),
        ("in_house", "", "zh-yue", "zh-yue"),
        ("in_house", "", "tlh", "tlh"),
        ("in_house", "", "", "en"),
    ],
)
def test_the_language_is_the_wikis(tmp_path: Path, name: str, base: str, declared: str, language: str) -> None:
    header = HEADER.replace("dewiki", name).replace("https://de.wikipedia.org/wiki/Wikipedia:Hauptseite", base)
    path = tmp_path / "dump.xml"
    path.write_text(header.replace('xml:lang="de"', f'xml:lang="{declared}"' if declared else "") + END)
    assert read_siteinfo(str(path)).language == language


@pytest.mark.parametrize(
    ("page", "words"),
    [
        ("mw:page", "have the prefix mw:"),
        ("x:page", "a page begins with <x:page>"),
        ('page xmlns="http://x"', "a page begins with <page xmlns"),
        ("page ", "a page be"),
    ],
)
def test_other_forms_of_pages_are_named(tmp_path: Path, page: str, words: str) -> None:
    xml = whole_dump(2).replace("<page>", f"<{page}>").replace("</page>", f"</{page.split()[0]}>")
    if page == "mw:page":
        xml = xml.replace("siteinfo>", "mw:siteinfo>").replace("</mw:siteinfo", "</mw:siteinfo")
        xml = xml.replace("<mediawiki", "<mw:mediawiki").replace("</mediawiki", "</mw:mediawiki")
    path = tmp_path / "dump.xml"
    path.write_text(xml.replace("</mw:mw:", "</mw:"))
    with pytest.raises(BadInput, match=words):
        read_siteinfo(str(path))
