"""Our bulk writer, compared with Megatron's own builder and readers."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch

from megatron_pz.corpus.indexed_dataset import IndexedTokens, append_file, token_dtype, write_index, write_tokens
from megatron_pz.runtime import cpu_backend
from megatron_pz.runtime.errors import BadInput

cpu_backend.install()

DOCUMENTS = [[[1, 2, 3], [4]], [[5, 6]], [], [[300, 7, 8, 9, 10], [11, 12], [13]]]
"""Documents of sequences; the third has none."""


def write_ours(prefix: Path, dtype: np.dtype, documents: list[list[list[int]]] = DOCUMENTS) -> None:
    sequences = [sequence for document in documents for sequence in document]
    with Path(f"{prefix}.bin").open("wb") as file:
        write_tokens(file, dtype, sequences[:2])
        write_tokens(file, dtype, sequences[2:])
    lengths = np.array([len(sequence) for sequence in sequences], dtype=np.int32)
    write_index(Path(f"{prefix}.idx"), dtype, lengths, np.array([len(document) for document in documents]))


@pytest.mark.parametrize("vocabulary", [331, 151_936])
def test_bytes_equal_those_of_megatrons_builder(tmp_path: Path, vocabulary: int) -> None:
    from megatron.core.datasets.indexed_dataset import DType, IndexedDataset, IndexedDatasetBuilder

    dtype = token_dtype(vocabulary)
    assert dtype == DType.optimal_dtype(vocabulary)
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    write_ours(ours, dtype)
    builder = IndexedDatasetBuilder(f"{theirs}.bin", dtype=dtype.type)
    for document in DOCUMENTS:
        for sequence in document:
            builder.add_item(torch.tensor(sequence))
        builder.end_document()
    builder.finalize(f"{theirs}.idx")
    for suffix in (".bin", ".idx"):
        assert Path(f"{ours}{suffix}").read_bytes() == Path(f"{theirs}{suffix}").read_bytes()
    theirs_reads = IndexedDataset(str(ours))
    we_read = IndexedTokens(str(theirs))
    assert [list(map(int, theirs_reads[i])) for i in range(len(theirs_reads))] == [
        we_read[i].tolist() for i in range(len(we_read))
    ]


def test_the_switch_to_32_bits_is_megatrons() -> None:
    from megatron.core.datasets.indexed_dataset import DType

    for vocabulary in (65_499, 65_500, 65_536):
        assert token_dtype(vocabulary) == DType.optimal_dtype(vocabulary)


def test_gpt_dataset_trains_from_it(tmp_path: Path) -> None:
    from megatron.core.datasets.blended_megatron_dataset_builder import BlendedMegatronDatasetBuilder
    from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig

    class Tokenizer:  # what the builder asks for
        unique_identifiers: ClassVar = {"class": "Tokenizer"}
        eod, pad, vocab_size = 0, 0, 331

    rng = np.random.default_rng(0)
    documents = [[rng.integers(1, 331, size).tolist() for size in rng.integers(3, 40, 3)] for _ in range(40)]
    prefix = tmp_path / "corpus"
    write_ours(prefix, token_dtype(331), documents)
    config = GPTDatasetConfig(
        random_seed=1,
        sequence_length=32,
        blend=([str(prefix)], None),
        split="100,0,0",
        path_to_cache=str(tmp_path / "cache"),
        tokenizer=Tokenizer(),
        reset_position_ids=False,
        reset_attention_mask=False,
        eod_mask_loss=False,
        create_attention_mask=False,
    )
    train, _, _ = BlendedMegatronDatasetBuilder(GPTDataset, [8, 0, 0], lambda: True, config).build()
    stream = " ".join(str(token) for document in documents for sequence in document for token in sequence)
    tokens = train[0]["tokens"].tolist()
    assert len(tokens) == 32
    assert " ".join(map(str, tokens[:3])) in stream


def test_joined_files_read_as_one(tmp_path: Path) -> None:
    dtype = token_dtype(331)
    write_ours(tmp_path / "shard", dtype)
    with (tmp_path / "whole.bin").open("wb") as file:
        for _ in range(2):
            append_file(tmp_path / "shard.bin", file)
    shard = IndexedTokens(str(tmp_path / "shard"))
    counts = np.diff(shard.documents)
    write_index(tmp_path / "whole.idx", dtype, np.tile(shard.lengths, 2), np.tile(counts, 2))
    whole = IndexedTokens(str(tmp_path / "whole"))
    assert [whole[i].tolist() for i in range(len(whole))] == 2 * [shard[i].tolist() for i in range(len(shard))]


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ("corpus", r"did you mean .*corpus_text_passage\?$"),
        ("corpus_text_passage.bin", r"did you mean .*corpus_text_passage\?$"),
        ("other", "give the prefix of a corpus that tools/preprocess_wikipedia.py made"),
        ("nowhere/corpus", "give the prefix of a corpus that tools/preprocess_wikipedia.py made"),
    ],
)
def test_a_prefix_that_is_almost_one_is_told_the_whole(tmp_path: Path, asked: str, words: str) -> None:
    write_ours(tmp_path / "corpus_text_passage", token_dtype(331))
    with pytest.raises(BadInput, match=words):
        IndexedTokens(str(tmp_path / asked))


def changed(data: bytes, part: str, values: list[int]) -> bytes:
    """Return the bytes of the index of ``DOCUMENTS`` with other lengths, offsets or bounds of documents."""
    begin, kind = {"lengths": (34, "<i4"), "offsets": (34 + 6 * 4, "<i8"), "documents": (34 + 6 * 12, "<i8")}[part]
    new = np.array(values, dtype=kind).tobytes()
    return data[:begin] + new + data[begin + len(new) :]


@pytest.mark.parametrize(
    ("suffix", "change", "words"),
    [
        (".bin", None, r"corpus.bin: is missing beside .*corpus.idx"),
        (".idx", None, r"corpus.idx: is missing beside .*corpus.bin"),
        (".bin", lambda data: data[:-2], r"corpus.bin: has 26 bytes where its .idx names 28"),
        (".idx", lambda data: data[:-1], "truncated"),
        (".idx", lambda data: data[:20], "truncated"),
        (".idx", lambda data: b"NOTANIDX" + data[8:], "not a Megatron index"),
        (".idx", lambda data: data[:17] + b"\x09" + data[18:], "dtype code 9"),
        (".idx", lambda data: changed(data, "lengths", [3, 1, 2, 5, 1, 2]), "do not follow one another"),
        (".idx", lambda data: changed(data, "lengths", [3, -1, 4, 5, 2, 1]), "do not follow one another"),
        (".idx", lambda data: changed(data, "offsets", [2, 6, 8, 12, 22, 26]), "do not follow one another"),
        (".idx", lambda data: changed(data, "offsets", [0, 6, 8, 1 << 40, 22, 26]), "do not follow one another"),
        (".idx", lambda data: changed(data, "documents", [0, 2, 3, 3, 5]), "do not follow one another"),
        (".idx", lambda data: changed(data, "documents", [0, 3, 2, 3, 6]), "do not follow one another"),
    ],
)
def test_what_does_not_belong_together_is_refused(tmp_path: Path, suffix: str, change: object, words: str) -> None:
    prefix = tmp_path / "corpus"
    write_ours(prefix, token_dtype(331))
    path = Path(f"{prefix}{suffix}")
    if callable(change):
        path.write_bytes(change(path.read_bytes()))
    else:
        path.unlink()
    with pytest.raises(BadInput, match=words):
        IndexedTokens(str(prefix))
