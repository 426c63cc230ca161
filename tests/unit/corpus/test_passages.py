"""Reading corpora for training: blends, word bounds, and corpora that do not fit the run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from transformers import AutoTokenizer

from megatron_pz.corpus.indexed_dataset import token_dtype, write_index, write_tokens
from megatron_pz.corpus.manifest import Articles
from megatron_pz.corpus.passages import PassageDataset, open_blend, parse_blend
from megatron_pz.runtime.errors import BadInput
from tests.support.tiny_corpus import write_corpus


def test_passages_with_their_articles(tmp_path: Path, tiny_tokenizer_dir: Path) -> None:
    blend = open_blend([write_corpus(tmp_path / "a", tiny_tokenizer_dir)], str(tiny_tokenizer_dir))
    found = [blend[index] for index in range(len(blend))]
    assert [(p.title, p.page_id, p.url, p.document, p.text, p.index) for p in found] == [
        ("T0", "p0", "u0", 0, "The old castle stands.", 0),
        ("T0", "p0", "u0", 0, "Water boils: naïve 東京", 1),
        ("T1", "p1", "u1", 1, "One two three four five six", 2),
        ("T2", "p2", "u2", 2, "Songs for voice", 3),
        ("T2", "p2", "u2", 2, "a b", 4),
    ]
    assert [passage.revision_id for passage in found] == ["", "", "r1", "r2", "r2"]
    with pytest.raises(IndexError):
        blend[5]


@pytest.mark.parametrize("groups_kept", [1, 16])
def test_articles_are_read_group_by_group(
    groups_kept: int, tmp_path: Path, tiny_tokenizer_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is not read when a corpus is opened; otherwise every process would hold millions of names."""
    monkeypatch.setattr(Articles, "_GROUPS_KEPT", groups_kept)
    prefix = write_corpus(tmp_path / "a", tiny_tokenizer_dir)
    pq.write_table(pq.read_table(f"{prefix}.parquet"), f"{prefix}.parquet", row_group_size=1)
    read: list[int] = []
    plain_read = Articles._read_group
    monkeypatch.setattr(Articles, "_read_group", lambda self, group: read.append(group) or plain_read(self, group))
    passages = PassageDataset(prefix, AutoTokenizer.from_pretrained(tiny_tokenizer_dir), min_words=2)
    assert read == []
    assert [passages[index].title for index in (4, 0, 3, 2, 1)] == ["T2", "T0", "T2", "T1", "T0"]
    assert read == ([2, 0, 2, 1, 0] if groups_kept == 1 else [2, 0, 1])


def test_a_blend_is_its_corpora_in_order_within_the_word_bounds(tmp_path: Path, tiny_tokenizer_dir: Path) -> None:
    first = write_corpus(tmp_path / "a", tiny_tokenizer_dir)
    second = write_corpus(tmp_path / "b", tiny_tokenizer_dir, [["x y z"], ["w"]])
    blend = open_blend(["3", first, "1", second], str(tiny_tokenizer_dir), min_words=3, max_words=4)
    assert blend.weights == [3.0, 1.0]
    assert blend.sizes == [3, 1]
    assert [blend[index].text for index in range(len(blend))] == [
        "The old castle stands.",
        "Water boils: naïve 東京",
        "Songs for voice",
        "x y z",
    ]
    longest = max(len(blend[index].token_ids) for index in range(len(blend)))
    assert blend.longest() == longest


@pytest.mark.parametrize(
    ("data_path", "expected"),
    [
        (["a"], (["a"], None)),
        (["a", "b"], (["a", "b"], None)),
        (["0.3", "a", "0.7", "b"], (["a", "b"], [0.3, 0.7])),
    ],
)
def test_data_path_is_read_as_megatron_reads_it(
    data_path: list[str], expected: tuple[list[str], list[float] | None]
) -> None:
    from megatron.core.datasets.utils import get_blend_from_list

    assert parse_blend(data_path) == expected == tuple(get_blend_from_list(data_path))


@pytest.mark.parametrize(
    ("data_path", "words"),
    [
        ([], "--data-path is empty"),
        (["0.3", "a", "b", "c"], "^0.3 a b c: give prefixes only, or a weight before every prefix"),
        (["0.3", "a", "0.7"], "^0.3 a 0.7: give prefixes only, or a weight before every prefix"),
        (["0", "a", "1", "b"], "^0 a 1 b: the weights of a blend must be finite and above 0"),
        (["nan", "a"], "^nan a: the weights of a blend must be finite and above 0"),
        (["010", "a", "0.7", "b"], "^010 a 0.7 b: write the weight 010 in decimal"),
        (["1", "a", "inf", "b"], "^1 a inf b: the weights of a blend must be finite and above 0"),
    ],
)
def test_a_blend_that_is_none_is_refused(data_path: list[str], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        parse_blend(data_path)


def change_manifest(prefix: str, **parts: object) -> None:
    path = Path(f"{prefix}.manifest.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), **parts}))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda prefix: change_manifest(prefix, tokenizer=None), r"a.manifest.json: has no tokenizer\.name"),
        (lambda prefix: change_manifest(prefix, tokenizer={"name": "x"}), r"a.manifest.json: has no tokenizer\.sha256"),
        (lambda prefix: change_manifest(prefix, options={}), r"a.manifest.json: has no options\.append_eod"),
        (lambda prefix: change_manifest(prefix, highest_token_id="7"), "highest_token_id is '7'"),
        (lambda prefix: Path(f"{prefix}.idx").unlink(), "a.idx: is missing beside"),
        (lambda prefix: Path(f"{prefix}.parquet").unlink(), "a.parquet: is missing"),
        (
            lambda prefix: Path(f"{prefix}.parquet").write_bytes(b"PAR1"),
            "a.parquet: is not a Parquet file, or is truncated",
        ),
        (lambda prefix: Path(f"{prefix}.manifest.json").unlink(), "a.manifest.json: is missing"),
        (lambda prefix: Path(f"{prefix}.manifest.json").write_text("{"), "a.manifest.json: cannot be read"),
        (lambda prefix: Path(f"{prefix}.manifest.json").write_text("{}"), "not a manifest of layout 1"),
        (lambda prefix: Path(f"{prefix}.bin").write_bytes(b""), "a.bin: has 0 bytes"),
        (
            lambda prefix: pq.write_table(pq.read_table(f"{prefix}.parquet").slice(1), f"{prefix}.parquet"),
            "has 2 rows where .* has 3 documents",
        ),
    ],
)
def test_a_damaged_corpus_is_refused(tmp_path: Path, tiny_tokenizer_dir: Path, damage: object, words: str) -> None:
    prefix = write_corpus(tmp_path / "a", tiny_tokenizer_dir)
    assert callable(damage)
    damage(prefix)
    with pytest.raises(BadInput, match=words):
        open_blend([prefix], str(tiny_tokenizer_dir))


def test_a_corpus_that_is_not_there_is_refused(tmp_path: Path, tiny_tokenizer_dir: Path) -> None:
    with pytest.raises(BadInput, match=r"no .*nothing\.bin and \.idx"):
        open_blend([str(tmp_path / "nothing")], str(tiny_tokenizer_dir))


def test_word_bounds_that_no_passage_meets_are_refused(tmp_path: Path, tiny_tokenizer_dir: Path) -> None:
    prefix = write_corpus(tmp_path / "a", tiny_tokenizer_dir)
    with pytest.raises(BadInput, match="no passage has between 50 and 60 words"):
        open_blend([prefix], str(tiny_tokenizer_dir), min_words=50, max_words=60)


def test_another_tokenizer_is_refused(tmp_path: Path, tiny_tokenizer_dir: Path) -> None:
    prefix = write_corpus(tmp_path / "a", tiny_tokenizer_dir)
    other = shutil.copytree(tiny_tokenizer_dir, tmp_path / "other")
    (other / "tokenizer.json").write_text((other / "tokenizer.json").read_text() + "\n")
    with pytest.raises(BadInput, match="was made with tokenizer tiny"):
        open_blend([prefix], str(other))


def test_tokens_that_do_not_round_trip_are_refused(tmp_path: Path, tiny_tokenizer_dir: Path) -> None:
    """The hash fits, but the ids do not: they are legal, but no text is tokenized to them."""
    prefix = write_corpus(tmp_path / "a", tiny_tokenizer_dir, [["the the"]])
    vocabulary = json.loads((tiny_tokenizer_dir / "tokenizer.json").read_text())["model"]["vocab"]
    letters = [vocabulary[letter] for letter in "the"]
    with Path(f"{prefix}.bin").open("wb") as file:
        write_tokens(file, token_dtype(331), [letters])
    write_index(Path(f"{prefix}.idx"), token_dtype(331), np.array([3], dtype=np.int32), np.array([1]))
    with pytest.raises(BadInput, match="does not survive decoding and encoding"):
        open_blend([prefix], str(tiny_tokenizer_dir))
