"""Batched tokenizing of passages with a Hugging Face tokenizer."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from megatron_pz.corpus.manifest import tokenizer_sha256
from megatron_pz.errors import BadInput

_BATCH = 512


class TextEncoder:
    """Texts to token ids, without special tokens.

    Args:
        directory: Folder of the tokenizer.

    Raises:
        BadInput: The folder holds no fast tokenizer.
    """

    def __init__(self, directory: str) -> None:
        # One worker is one process; threads inside it would only compete, and forked ones would hang.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        from transformers import AutoTokenizer  # seconds to import

        self.sha256 = tokenizer_sha256(directory)
        self.name = Path(directory).resolve().name
        try:
            tokenizer = AutoTokenizer.from_pretrained(directory, use_fast=True, verbose=False)
        except (OSError, ValueError, KeyError) as error:
            raise BadInput(f"--tokenizer-model {directory}: transformers cannot load it ({error})") from None
        if not tokenizer.is_fast:
            raise BadInput(f"--tokenizer-model {directory}: is no fast tokenizer; convert it to a tokenizer.json")
        self._tokenizer = tokenizer
        self.vocab_size = len(tokenizer)
        self.eod: int | None = tokenizer.eos_token_id

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        ids: list[list[int]] = []
        for start in range(0, len(texts), _BATCH):
            batch = list(texts[start : start + _BATCH])
            encoded = self._tokenizer(
                batch, add_special_tokens=False, return_attention_mask=False, return_token_type_ids=False
            )
            ids += encoded["input_ids"]
        return ids

    def count(self, texts: Sequence[str]) -> list[int]:
        return [len(ids) for ids in self.encode(texts)]
