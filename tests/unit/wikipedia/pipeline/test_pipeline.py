"""From dump to corpus: the same bytes for any number of workers, and every token is traceable."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer

from megatron_pz.corpus.indexed_dataset import IndexedTokens
from megatron_pz.corpus.manifest import file_sha256, tokenizer_sha256
from megatron_pz.corpus.passages import open_blend
from megatron_pz.runtime.errors import BadInput
from megatron_pz.wikipedia.pipeline.options import OutputOptions, Part, PreprocessOptions, RunOptions
from megatron_pz.wikipedia.pipeline.pipeline import preprocess
from megatron_pz.wikipedia.pipeline.working_directory import working_folder
from megatron_pz.wikipedia.read.articles import split_of
from megatron_pz.wikipedia.tokenize.passages import PassageOptions
from tests.support.small_dump import SUFFIXES, contents, run

pytestmark = pytest.mark.usefixtures("small_jobs")


def test_pages_are_dropped_for_a_reason_and_articles_kept(
    tmp_path: Path, dump_path: Path, tiny_tokenizer_dir: Path
) -> None:
    report = run(tmp_path / "out" / "wiki", tiny_tokenizer_dir, dump_path)
    reasons = {"namespace": 1, "redirect": 2, "disambiguation": 2, "too_short": 1, "list": 1}
    assert {name: count for name, count in report.counts.items() if name.startswith("dropped_")} == {
        f"dropped_{reason}": count for reason, count in reasons.items()
    }
    assert (report.counts["pages"], report.counts["articles"]) == (37, 30)
    prefix = tmp_path / "out" / "wiki_text_passage"
    manifest = json.loads(Path(f"{prefix}.manifest.json").read_text())
    assert {reason: count for reason, count in manifest["all_splits"]["dropped"].items() if count} == reasons
    assert manifest["all_splits"]["damaged"] == []
    assert manifest["highest_token_id"] == np.fromfile(f"{prefix}.bin", dtype=manifest["dtype"]).max()
    assert manifest["inputs"] == [
        {
            "name": "dump.xml.bz2",
            "bytes": dump_path.stat().st_size,
            "sha256": file_sha256(dump_path),
            "wiki": "enwiki",
            "language": "en",
        }
    ]
    assert manifest["tokenizer"]["sha256"] == tokenizer_sha256(tiny_tokenizer_dir)
    assert manifest["license"] == "CC BY-SA 4.0"
    assert sorted(path.name for path in prefix.parent.iterdir()) == sorted(f"{prefix.name}{end}" for end in SUFFIXES)


@pytest.mark.parametrize("backend", ["huggingface", "gigatoken"])
@pytest.mark.parametrize(
    ("highest", "dtype"),
    [(330, np.uint16), (65_498, np.uint16), (65_499, np.int32), (65_536, np.int32), (70_000, np.int32)],
)
def test_the_highest_id_of_a_small_vocabulary_decides_the_type(
    highest: int, dtype: type, backend: str, tmp_path: Path, dump_path: Path, tiny_tokenizer_dir: Path
) -> None:
    folder = tmp_path / "with_a_gap"
    shutil.copytree(tiny_tokenizer_dir, folder)
    definition = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = definition["model"]["vocab"]
    space = vocabulary["Ġ"]
    last = next(token for token, number in vocabulary.items() if number == max(vocabulary.values()))
    vocabulary["Ġ"], vocabulary[last] = highest, space  # a space before a digit is a separate token
    (folder / "tokenizer.json").write_text(json.dumps(definition))

    report = preprocess(
        PreprocessOptions(
            inputs=(str(dump_path),),
            tokenizer_model=str(folder),
            tokenizer_backend=backend,  # type: ignore[arg-type]
            output=OutputOptions(str(tmp_path / "wiki")),
            passages=PassageOptions(max_passage_tokens=64),
        )
    )
    prefix = str(tmp_path / "wiki_text_passage")
    tokens = IndexedTokens(prefix)
    manifest = json.loads(Path(f"{prefix}.manifest.json").read_text())
    assert report.counts["articles"] > 20
    assert tokens.dtype == dtype
    assert manifest["dtype"] == np.dtype(dtype).name
    assert manifest["highest_token_id"] == tokens.highest_id() == highest
    read_back = Tokenizer.from_file(str(folder / "tokenizer.json")).decode(tokens[0].tolist())
    assert read_back.startswith("Hill 1 stands above the river")


def test_every_passage_leads_to_its_article(tmp_path: Path, dump_path: Path, tiny_tokenizer_dir: Path) -> None:
    run(tmp_path / "wiki", tiny_tokenizer_dir, dump_path, append_eod=True)
    prefix = str(tmp_path / "wiki_text_passage")
    blend = open_blend([prefix], str(tiny_tokenizer_dir))
    texts: dict[str, str] = {}
    for index in range(len(blend)):
        passage = blend[index]
        assert passage.index == index
        assert len(passage.token_ids) <= 64
        texts[passage.page_id] = texts.get(passage.page_id, "") + " " + " ".join(passage.text.split())
        assert passage.title == f"River & hill {passage.page_id}"
        assert passage.url == f"https://en.wikipedia.org/wiki/River_%26_hill_{passage.page_id}"
    assert texts["7"].strip() == (
        "Hill 7 stands above the river of the town. The river gave number 7 its name. "
        "Its second paragraph has 7 words & more about the railway and the village."
    )
    tokens, rows = IndexedTokens(prefix), pq.read_table(f"{prefix}.parquet").to_pylist()
    assert [row["first_passage"] for row in rows] == tokens.documents[:-1].tolist()
    assert [row["offset"] for row in rows] == [int(tokens.offsets[row["first_passage"]]) for row in rows]
    assert [row["document"] for row in rows] == list(range(30))
    assert rows[6]["revision_id"] == "1007"
    assert sum(row["tokens"] for row in rows) == tokens.lengths.sum()
    ends = [tokens[int(end) - 1][-1] for end in tokens.documents[1:]]
    assert set(ends) == {0}, "an article ends in the end-of-text token"


def test_bytes_do_not_depend_on_the_number_of_workers(
    tmp_path: Path, dump_path: Path, leads_path: Path, tiny_tokenizer_dir: Path
) -> None:
    for workers in (1, 2):
        how = RunOptions(workers)
        run(tmp_path / f"{workers}" / "wiki", tiny_tokenizer_dir, dump_path, leads_path, how=how, split=(80, 20))
    names = sorted(path.name for path in (tmp_path / "1").iterdir())
    assert len(names) == 8
    for name in names:
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes(), name


def test_bytes_do_not_depend_on_the_number_of_machines(
    tmp_path: Path, dump_path: Path, leads_path: Path, tiny_tokenizer_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = (dump_path, leads_path)
    whole = run(tmp_path / "one" / "wiki", tiny_tokenizer_dir, *inputs, split=(80, 20))
    prefix = tmp_path / "three" / "wiki"
    for number in (3, 1, 2):
        report = run(prefix, tiny_tokenizer_dir, *inputs, how=RunOptions(part=Part(number, 3)), split=(80, 20))
        assert report.outputs == {} and sum(report.counts.values()) > 0, "every part has work"
    assert [path.name for path in (tmp_path / "three").iterdir()] == ["wiki.working"]

    def no_job_is_left(*_: object) -> None:
        raise AssertionError("done twice")

    monkeypatch.setattr("megatron_pz.wikipedia.pipeline.jobs.process_job", no_job_is_left)
    joined = run(prefix, tiny_tokenizer_dir, *inputs, split=(80, 20))
    assert joined.counts == whole.counts
    assert contents(tmp_path / "three") == contents(tmp_path / "one")


def test_a_part_that_failed_is_made_up_for(
    tmp_path: Path, dump_path: Path, leads_path: Path, tiny_tokenizer_dir: Path
) -> None:
    inputs = (dump_path, leads_path)
    run(tmp_path / "one" / "wiki", tiny_tokenizer_dir, *inputs)
    run(tmp_path / "two" / "wiki", tiny_tokenizer_dir, *inputs, how=RunOptions(part=Part(1, 2)))
    run(tmp_path / "two" / "wiki", tiny_tokenizer_dir, *inputs)
    assert contents(tmp_path / "two") == contents(tmp_path / "one")


def test_parts_work_side_by_side_and_nobody_beside_the_join(tmp_path: Path) -> None:
    prefix = str(tmp_path / "wiki")
    with working_folder(prefix, fresh=False, part=Part(1, 2)), working_folder(prefix, fresh=False, part=Part(2, 2)):
        for part in (None, Part(1, 2)):
            with pytest.raises(BadInput, match="another run writes there"), working_folder(prefix, False, part):
                pass
    part = working_folder(prefix, fresh=False, part=Part(1, 2))
    with working_folder(prefix, fresh=False), pytest.raises(BadInput, match="another run writes there"), part:
        pass


def test_no_title_is_on_both_sides_of_a_split(
    tmp_path: Path, dump_path: Path, leads_path: Path, tiny_tokenizer_dir: Path
) -> None:
    report = run(tmp_path / "wiki", tiny_tokenizer_dir, dump_path, leads_path, split=(70, 30))
    assert list(report.outputs) == [str(tmp_path / f"wiki_{name}_text_passage") for name in ("train", "valid")]
    sides = [
        {" ".join(title.casefold().split()) for title in pq.read_table(f"{prefix}.parquet")["title"].to_pylist()}
        for prefix in report.outputs
    ]
    assert not sides[0] & sides[1]
    assert len(sides[0]) + len(sides[1]) == 30, "the twelve leads are articles of the dump"
    assert sum(totals.documents for totals in report.outputs.values()) == 42


def test_a_repeated_article_is_dropped_whatever_its_title_and_its_split(
    tmp_path: Path, leads_path: Path, tiny_tokenizer_dir: Path
) -> None:
    """Without the repetitions in the input the corpus is the same byte for byte, except for the manifest."""
    unique = leads_path.read_text().splitlines()
    repeated = [json.dumps(json.loads(line) | {"id": f"again {n}", "title": f"T {n}"}) for n, line in enumerate(unique)]
    mixed = leads_path.with_name("mixed.jsonl")
    mixed.write_text("\n".join([*unique[:7], *repeated[2:5], *unique[7:], *repeated[6:]]) + "\n")
    reports = [
        run(tmp_path / name / "wiki", tiny_tokenizer_dir, path, split=(60, 40), append_eod=True)
        for name, path in (("unique", leads_path), ("mixed", mixed))
    ]
    assert reports[1].counts["dropped_exact_duplicate"] == 3 + 6
    assert reports[1].counts["articles"] == reports[0].counts["articles"] == 12
    for name in ("train", "valid"):
        for suffix in (".bin", ".idx", ".parquet"):
            made = [tmp_path / folder / f"wiki_{name}_text_passage{suffix}" for folder in ("unique", "mixed")]
            if suffix == ".parquet":
                assert pq.read_table(made[0]).equals(pq.read_table(made[1]))
            else:
                assert made[0].read_bytes() == made[1].read_bytes(), (name, suffix)


def test_split_is_by_share_and_by_title() -> None:
    sides = [split_of(f"Title {number}", (90, 5, 5)) for number in range(4000)]
    assert [round(sides.count(side) / 4000, 2) for side in range(3)] == pytest.approx([0.9, 0.05, 0.05], abs=0.015)
    assert split_of("Old  Town_Hall", (1, 1)) == split_of("old town hall", (1, 1))


def test_whole_articles_as_sequences(tmp_path: Path, dump_path: Path, tiny_tokenizer_dir: Path) -> None:
    report = run(tmp_path / "wiki", tiny_tokenizer_dir, dump_path, level="document")
    (totals,) = report.outputs.values()
    assert (totals.documents, totals.passages) == (30, 30)
    blend = open_blend([str(tmp_path / "wiki_text_document")], str(tiny_tokenizer_dir))
    assert blend[0].text.count("\n\n") == 1
