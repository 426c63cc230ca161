"""Read and write the files beside a corpus that record its provenance.

``<prefix>.manifest.json`` records how the corpus was made; ``<prefix>.parquet`` has a row for the article of every
document.
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_right
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from megatron_pz.runtime.errors import BadInput

FORMAT: Final = 1
"""Version of the manifest's layout."""
LICENSE: Final = "CC BY-SA 4.0"
ATTRIBUTION: Final = (
    "Text from Wikipedia, by its contributors, under the Creative Commons Attribution-ShareAlike licence "
    "(https://creativecommons.org/licenses/by-sa/4.0/); changed: markup removed, cut into passages. Each document's "
    "URL and revision id in the Parquet file lead to its authors."
)

DOCUMENTS_SCHEMA: Final = pa.schema(
    [
        ("document", pa.int64()),
        ("page_id", pa.string()),
        ("revision_id", pa.string()),
        ("title", pa.string()),
        ("url", pa.string()),
        ("offset", pa.int64()),  # bytes in the .bin
        ("first_passage", pa.int64()),
        ("passages", pa.int32()),
        ("tokens", pa.int64()),
        ("words", pa.list_(pa.int32())),  # of every passage
    ]
)
"""One row for every document, in the order of the ``.idx``."""

_REQUIRED = (("tokenizer", "name"), ("tokenizer", "sha256"), ("tokenizer", "eod"), ("options", "append_eod"))
"""Keys of a manifest that readers need."""
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")


def file_sha256(path: str | Path) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tokenizer_sha256(directory: str | Path) -> str:
    """Hash the file that defines the tokenizer.

    Raises:
        BadInput: the directory holds no tokenizer.
    """
    for name in _TOKENIZER_FILES:
        if (path := Path(directory) / name).is_file():
            return file_sha256(path)
    raise BadInput(f"{directory}: no tokenizer.json there; give the directory of a Hugging Face tokenizer")


def write_manifest(path: Path, manifest: dict[str, Any]) -> None:
    path.write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_manifest(prefix: str) -> dict[str, Any]:
    """Read the manifest of a corpus.

    Raises:
        BadInput: it is missing, or has another layout.
    """
    path = Path(f"{prefix}.manifest.json")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadInput(f"{path}: is missing; make the corpus with tools/preprocess_wikipedia.py") from None
    except (OSError, ValueError, RecursionError) as error:
        raise BadInput(f"{path}: cannot be read ({error}); preprocess the corpus again") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise BadInput(f"{path}: is not a manifest of layout {FORMAT}; preprocess the corpus again")
    for part, key in _REQUIRED:
        values = manifest.get(part)
        if not isinstance(values, dict) or key not in values:
            raise BadInput(f"{path}: has no {part}.{key}; preprocess the corpus again")
    if not isinstance(manifest.get("highest_token_id", 0), int):
        raise BadInput(f"{path}: highest_token_id is {manifest['highest_token_id']!r}; preprocess the corpus again")
    return manifest


def open_documents(prefix: str, documents: int) -> pq.ParquetFile:
    """Open the Parquet file of a corpus, which has a row for each of its ``documents``; rows are read on access.

    Raises:
        BadInput: it is missing, damaged, or that of another corpus.
    """
    path = Path(f"{prefix}.parquet")
    try:
        file = pq.ParquetFile(path, memory_map=True)
    except FileNotFoundError:
        raise BadInput(f"{path}: is missing; preprocess the corpus again") from None
    except (OSError, pa.ArrowInvalid):
        raise BadInput(f"{path}: is not a Parquet file, or is truncated; preprocess the corpus again") from None
    rows = file.metadata.num_rows
    if rows != documents:
        raise BadInput(
            f"{path}: has {rows} rows where {prefix}.idx has {documents} documents; preprocess the corpus again"
        )
    return file


@dataclass(frozen=True)
class Article:
    """Source of a document."""

    page_id: str
    title: str
    url: str
    revision_id: str
    """Empty if the source named none."""


class Articles:
    """The articles of a corpus by the number of their document.

    Rows are read and decompressed on access, and only the most recent row groups are cached. The titles of the English
    Wikipedia alone are 0.7 GiB, which every training process would otherwise hold.
    """

    _GROUPS_KEPT = 16

    def __init__(self, file: pq.ParquetFile) -> None:
        self._file = file
        rows = (file.metadata.row_group(group).num_rows for group in range(file.num_row_groups))
        self.group_starts = list(accumulate(rows, initial=0))
        """Number of the first document of every row group, and of all documents."""
        self._group = lru_cache(self._GROUPS_KEPT)(self._read_group)

    def __getitem__(self, document: int) -> Article:
        group = bisect_right(self.group_starts, document) - 1
        (row,) = self._group(group).slice(document - self.group_starts[group], 1).to_pylist()
        return Article(**{name: value or "" for name, value in row.items()})

    def _read_group(self, group: int) -> pa.Table:
        return self._file.read_row_group(group, columns=["page_id", "title", "url", "revision_id"])
