"""Write corpora of a few sentences from the format's parts, independent of the preprocessing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from megatron_pz.corpus.indexed_dataset import token_dtype, write_index, write_tokens
from megatron_pz.corpus.manifest import DOCUMENTS_SCHEMA, FORMAT, tokenizer_sha256, write_manifest

PASSAGES = [
    f"The old {place} stands near the {other}, and people of the town visit the {place} every summer."
    for place, other in [
        ("castle", "river"),
        ("bridge", "market"),
        ("harbour", "garden"),
        ("tower", "valley"),
        ("forest", "island"),
        ("canal", "mill"),
    ]
]
"""What runs on scripted engines play with: in each one word stands twice."""

TEXTS = [
    ["The old castle stands.", "Water boils: naïve 東京"],
    ["One two three four five six"],
    ["Songs for voice", "a b"],
]
"""Articles of one and of several passages."""


def write_corpus(prefix: Path, tokenizer_dir: Path, texts: Sequence[Sequence[str]] = TEXTS) -> str:
    """Write a corpus with one document per list, from the format's parts."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_dir)
    sequences = [[tokenizer(text)["input_ids"] for text in document] for document in texts]
    flat = [sequence for document in sequences for sequence in document]
    dtype = token_dtype(len(tokenizer))
    with Path(f"{prefix}.bin").open("wb") as file:
        write_tokens(file, dtype, flat)
    lengths = np.array([len(sequence) for sequence in flat], dtype=np.int32)
    write_index(Path(f"{prefix}.idx"), dtype, lengths, np.array([len(document) for document in texts]))
    rows = [
        {
            "document": n,
            "page_id": f"p{n}",
            "title": f"T{n}",
            "url": f"u{n}",
            "revision_id": f"r{n}" if n else None,
            "words": [len(t.split()) for t in document],
        }
        for n, document in enumerate(texts)
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=DOCUMENTS_SCHEMA), f"{prefix}.parquet")
    manifest = {
        "format": FORMAT,
        "tokenizer": {"name": "tiny", "sha256": tokenizer_sha256(tokenizer_dir), "eod": 0},
        "options": {"append_eod": False},
    }
    write_manifest(Path(f"{prefix}.manifest.json"), manifest)
    return str(prefix)
