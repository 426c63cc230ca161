"""Encode texts with gigatoken if it is installed and agrees with Hugging Face, otherwise with Hugging Face tokenizers.

gigatoken encodes 20 to 30 million tokens per second on one core, Hugging Face 0.3 to 0.5 million. It is used only while
its ids are the same: it is compared on hard cases when it is loaded, and on one of some thousand texts during the work.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tokenizers import Tokenizer, pre_tokenizers

from megatron_pz.corpus.manifest import tokenizer_sha256
from megatron_pz.corpus.plain_text import plain_text_tokenizer
from megatron_pz.runtime.errors import BadInput
from megatron_pz.wikipedia.tokenize.hf_tokenizer import HFTokenizer, load_hf_tokenizer

TokenizerBackend = Literal["auto", "gigatoken", "huggingface"]

_BATCH = 512
_AUDIT_EVERY = 4096
"""Texts between two comparisons with Hugging Face, which take two per cent of the time."""
_RENEW_AFTER = 1 << 28
"""Characters after which gigatoken is reloaded, because it caches every word that it has seen, 64 bytes each."""

_VOCABULARY = re.compile(r'"vocab"\s*:\s*\{')
"""Where the vocabulary begins in a ``tokenizer.json``; quotes inside its strings have a backslash before them."""

HARD_CASES = (
    "In 1887 the railway reached the village; by 1897 its population had doubled, from 1,204 to 2,431 (+102 %).",
    "It's what they've said, isn't it? WE'LL SEE. 'Tis I'd don't DON'T O'Brien's",
    "  two spaces,\ttabs\t\tand\n\nblank lines \n \n and trailing  \n",
    "No\u00a0break, thin\u2009space, wide\u3000space, line\u2028separator, soft\u00adhyphen, zero\u200bwidth",
    "naïve and nai\u0308ve, \ufb01ne, \u212bngström, A\u030angstro\u0308m, \u1e9b\u0323, Ω\u2126",
    "E = mc², ∫₀¹ x⁵ dx ≈ ⅙, 10⁻³ ≤ ε < ∞, ∑ₙ ℕ ⊆ ℝ, 3×4, ½, Ⅷ",
    "日本語の文章。中文句子，全角！ 한국어 문장. العربية، ١٢٣ עברית हिन्दी ไทย",
    "\U0001f469\U0001f3fd\u200d\U0001f680 \U0001f1eb\U0001f1f7 \U0001d49c\U0001d4b7 \U00020000 \U000e0041 \U0010fffd",
    'see https://example.org/a_b?c=d&e=%20#f, <ref name="x"/>, {{cite}}, [[link|text]], snake_case, camelCase, C++',
    "Wolfeschlegelsteinhausenbergerdorff aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa !!!!!!!!!!!! ------------ ............",
    "<|endoftext|> <|im_start|>user<|im_end|> <think> </s> [MASK] \\mask{river} \\boxed{river}",
    "control\x00\x01\x04\x06\x13\x1d\x7f\x85 characters, \ufffd, \ufeff, unassigned planes \U00040000 \U000a1234",
    "",
    " ",
    "\n",
)
"""Texts on which different tokenizers are most likely to differ."""


class TextEncoder:
    """Encodes texts to token ids without adding special tokens. Can be pickled.

    Args:
        directory: Folder of a Hugging Face tokenizer.
        backend: ``gigatoken``; ``huggingface``; or ``auto``, which is gigatoken if it is installed and agrees with
            Hugging Face, and otherwise reports on stderr why not.

    Raises:
        BadInput: The directory holds no fast tokenizer, or gigatoken was requested and is missing or disagrees.
    """

    def __init__(self, directory: str, backend: TokenizerBackend = "auto") -> None:
        # Each worker is a process; threads inside it would only compete, and forked threads would hang.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        self.sha256 = tokenizer_sha256(directory)
        self.name = Path(directory).resolve().name
        loaded = load_hf_tokenizer(directory)
        self.vocab_size = loaded.tokenizer.get_vocab_size()
        self.highest_id = highest_id(loaded.tokenizer)
        self._hf, definition = plain_text_tokenizer(loaded.tokenizer, loaded.definition)
        loaded = replace(loaded, tokenizer=self._hf, definition=definition)
        self.eod = loaded.eod
        self.backend = f"tokenizers {metadata.version('tokenizers')}"
        """Name and version of the library that encodes."""
        self._gigatoken: _Gigatoken | None = None
        self._until_audit = _AUDIT_EVERY
        if backend != "huggingface":
            self._take_gigatoken(loaded, backend)
        self._arguments = (directory, "huggingface" if self._gigatoken is None else "gigatoken")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self._arguments

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Encode every text to uint32 ids. Raise :class:`BadInput` if a comparison shows that gigatoken is wrong."""
        if self._gigatoken is None:
            return self._encode_hf(texts)
        ids = self._gigatoken.encode(texts, self._encode_hf)
        self._until_audit -= len(texts)
        if self._until_audit <= 0:
            self._until_audit = _AUDIT_EVERY
            if not np.array_equal(ids[0], self._encode_hf(texts[:1])[0]):
                raise BadInput(
                    f"{self.backend} and Hugging Face differ on the text {texts[0][:80]!r}; run again with "
                    "--tokenizer-backend huggingface"
                )
        return ids

    def count(self, texts: Sequence[str]) -> list[int]:
        """Return the number of tokens of every text."""
        return [len(ids) for ids in self.encode(texts)]

    def _encode_hf(self, texts: Sequence[str]) -> list[np.ndarray]:
        return [
            np.array(encoding.ids, dtype=np.uint32)
            for start in range(0, len(texts), _BATCH)
            for encoding in self._hf.encode_batch_fast(list(texts[start : start + _BATCH]), add_special_tokens=False)
        ]

    def _take_gigatoken(self, loaded: HFTokenizer, backend: TokenizerBackend) -> None:
        """Use gigatoken if it agrees on the hard cases; if it was requested explicitly, raise if it does not."""
        try:
            version = f"gigatoken {metadata.version('gigatoken')}"
            import gigatoken as _  # noqa: F401
        except ImportError:
            if backend == "gigatoken":
                raise BadInput(
                    "--tokenizer-backend gigatoken: is not installed; pip install gigatoken, or leave the flag out"
                ) from None
            print(f"gigatoken is not installed: {self.backend} encodes, and slowly", file=sys.stderr)
            return
        try:
            fast = _Gigatoken(loaded)
            pairs = zip(fast.encode(HARD_CASES, self._encode_hf), self._encode_hf(HARD_CASES), strict=True)
            same = [np.array_equal(ids, expected) for ids, expected in pairs]
            differs = [text for text, is_same in zip(HARD_CASES, same, strict=True) if not is_same]
            complaint = f"differs from Hugging Face on {differs[0][:60]!r}" if differs else ""
        except Exception as error:  # its Rust code raises RuntimeError, ValueError and others for unknown tokenizers
            complaint = f"cannot load it ({' '.join(str(error).split())})"
        if not complaint:
            self._gigatoken, self.backend = fast, version
        elif backend == "gigatoken":
            raise BadInput(
                f"--tokenizer-backend gigatoken: {version}, tokenizer {self.name}: {complaint}; leave it out"
            )
        else:
            print(f"warning: {version}, tokenizer {self.name}: {complaint}; {self.backend} is used", file=sys.stderr)


Encode = Callable[[Sequence[str]], list[np.ndarray]]


class _Gigatoken:
    """gigatoken's encoder of one tokenizer, in bounded memory.

    gigatoken requires a token for every byte. Vocabularies that lack some (SmolLM2 lacks control characters) get extra
    tokens above all others; a text that produces such a token is encoded by Hugging Face.

    Raises:
        Exception: Raised by gigatoken for an unknown tokenizer.
    """

    def __init__(self, loaded: HFTokenizer) -> None:
        from gigatoken import Tokenizer as Gigatokenizer

        self._new = Gigatokenizer.from_json
        self._definition, self._top = _with_every_byte(loaded)
        self._renew()

    def _renew(self) -> None:
        self._encode_one = self._new(self._definition).backend.encode
        self._characters_left = _RENEW_AFTER

    def encode(self, texts: Sequence[str], encode_hf: Encode) -> list[np.ndarray]:
        """Encode every text."""
        ids = [self._encode_one(text) for text in texts]
        self._characters_left -= sum(map(len, texts))
        if self._characters_left < 0:
            self._renew()
        if self._top and ids and np.concatenate(ids).max(initial=0) >= self._top:
            for number, found in enumerate(ids):
                if found.max(initial=0) >= self._top:
                    ids[number] = encode_hf([texts[number]])[0]
        return ids


def highest_id(tokenizer: Tokenizer) -> int:
    """Return a tokenizer's highest id, which exceeds the number of entries if the vocabulary has gaps."""
    size = tokenizer.get_vocab_size(with_added_tokens=True)
    if all(map(tokenizer.id_to_token, range(size))):
        return size - 1
    return max(tokenizer.get_vocab(with_added_tokens=True).values())


def _with_every_byte(loaded: HFTokenizer) -> tuple[str, int]:
    """Add a token for every missing byte to a byte-level ``tokenizer.json``; return it and the lowest new id.

    The id is 0 if there are no new tokens.
    """
    lacking = [byte for byte in pre_tokenizers.ByteLevel.alphabet() if loaded.tokenizer.token_to_id(byte) is None]
    if not lacking or '"ByteLevel"' not in loaded.definition:
        return loaded.definition, 0
    top = highest_id(loaded.tokenizer) + 1
    new = "".join(f"{json.dumps(byte)}: {top + number}, " for number, byte in enumerate(sorted(lacking)))
    definition, places = _VOCABULARY.subn(lambda begin: begin[0] + new, loaded.definition)
    return (definition, top) if places == 1 else (loaded.definition, 0)
