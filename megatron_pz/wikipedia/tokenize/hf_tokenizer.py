"""Load the ``tokenizers.Tokenizer`` that ``transformers.AutoTokenizer`` would use for a directory.

Importing transformers takes seconds of CPU time, and most directories do not need it: their ``tokenizer.json`` is the
whole tokenizer. If transformers would change it (a class that builds its own rules, a token added by
``tokenizer_config.json``), transformers is used. Training reads corpora with AutoTokenizer and checks that it agrees
(:func:`megatron_pz.corpus.passages.open_blend`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from tokenizers.models import BPE

from megatron_pz.runtime.errors import BadInput

_PLAIN_CLASSES = frozenset({"TokenizersBackend", "PreTrainedTokenizer"})
"""Classes that take ``tokenizer.json`` as it is (transformers 5; a trailing "Fast" does not count)."""
_QWEN2_CLASS = "Qwen2Tokenizer"
_QWEN2_RULES = "ebf649c6991fbb0c"
"""Qwen2Tokenizer takes vocabulary and merges from the file and its rules from its code. Where the file states the same
rules, which all files of Qwen2 and Qwen3 do, nothing changes. See :func:`_rules_digest`."""
_MODEL_TYPES = frozenset({"", "llama", "qwen3", "qwen3_moe", "smollm3"})
"""``model_type`` of ``config.json`` for which transformers lets ``tokenizer_class`` decide; "" if there is none."""
_TOKEN_LISTS = ("additional_special_tokens", "extra_special_tokens")
_FLAGS = ("lstrip", "rstrip", "normalized", "single_word", "special")


@dataclass(frozen=True)
class HFTokenizer:
    """A Hugging Face tokenizer, ready to encode without special tokens, truncation or padding."""

    tokenizer: Tokenizer
    definition: str
    """The ``tokenizer.json`` that describes it."""
    eod: int | None
    """Id of the end-of-text token (``eos_token``)."""
    is_plain: bool
    """True if ``tokenizer.json`` alone made it, without transformers."""


def load_hf_tokenizer(directory: str) -> HFTokenizer:
    """Load the tokenizer of a directory. Raise :class:`BadInput` if there is no fast one."""
    loaded = _load_plain(Path(directory)) or _load_with_transformers(directory)
    loaded.tokenizer.no_truncation()
    loaded.tokenizer.no_padding()
    return loaded


def _load_plain(folder: Path) -> HFTokenizer | None:
    """Load the tokenizer only from ``tokenizer.json``; return None if transformers could change it."""
    path = folder / "tokenizer.json"
    if not path.is_file() or (folder / "added_tokens.json").exists():
        return None
    try:
        config = _read_json(folder / "tokenizer_config.json")
        named = _read_json(folder / "special_tokens_map.json")
        model_type = str(_read_json(folder / "config.json").get("model_type") or "")
        definition = path.read_bytes().decode()  # read_text would spend more time on newlines than all the rest takes
        tokenizer = Tokenizer.from_str(definition)
    except Exception:  # also raised by the Rust library; transformers reports the fault
        return None
    class_name = str(config.get("tokenizer_class") or "").removesuffix("Fast")
    if class_name not in _PLAIN_CLASSES and not (
        class_name == _QWEN2_CLASS and _rules_digest(tokenizer) == _QWEN2_RULES
    ):
        return None
    if (
        model_type not in _MODEL_TYPES
        or any(config.get(key) for key in ("auto_map", "split_special_tokens", "add_prefix_space"))
        or any(config.get(key, value) != value for key, value in named.items())
        or not _has_tokens(tokenizer, config)
    ):
        return None
    eos = next(_token_names(config.get("eos_token")), None)
    if eos is None:  # some classes have their own default
        return None
    return HFTokenizer(tokenizer, definition, tokenizer.token_to_id(eos), is_plain=True)


def _load_with_transformers(directory: str) -> HFTokenizer:
    from transformers import AutoTokenizer  # takes seconds to import

    try:
        tokenizer = AutoTokenizer.from_pretrained(directory, verbose=False)
    except Exception as error:  # the Rust library raises bare Exception for a broken tokenizer.json
        reason = " ".join(str(error).split())
        raise BadInput(f"--tokenizer-model {directory}: transformers cannot load it ({reason})") from None
    if not tokenizer.is_fast:
        raise BadInput(f"--tokenizer-model {directory}: is not a fast tokenizer; convert it to a tokenizer.json")
    backend = tokenizer.backend_tokenizer
    return HFTokenizer(backend, backend.to_str(), tokenizer.eos_token_id, is_plain=False)


def _read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _token_names(value: Any) -> Iterator[str]:
    """Yield the contents of a token, or of the tokens of a list, as a configuration file states them."""
    for token in value if isinstance(value, list) else [value]:
        if isinstance(token, dict):
            yield str(token["content"])
        elif token is not None:
            yield str(token)


def _has_tokens(tokenizer: Tokenizer, config: dict[str, Any]) -> bool:
    """Return whether the tokenizer has every token that the configuration names, so that none would be added to it."""
    added = tokenizer.get_added_tokens_decoder()
    for number, token in (config.get("added_tokens_decoder") or {}).items():
        known = added.get(int(number))
        if known is None or known.content != token["content"]:
            return False
        if any(getattr(known, flag) != token[flag] for flag in _FLAGS if flag in token):
            return False
    names = {token.content for token in added.values()}
    keys = [key for key in config if key.endswith("_token") or key in _TOKEN_LISTS]
    return all(name in names for key in keys if not isinstance(config[key], bool) for name in _token_names(config[key]))


def _rules_digest(tokenizer: Tokenizer) -> str:
    """Compute a digest of the rules that determine a BPE tokenizer's ids, without its vocabulary and offsets."""
    model = tokenizer.model
    if not isinstance(model, BPE):
        return ""
    names = ("unk_token", "dropout", "fuse_unk", "byte_fallback", "ignore_merges")
    rules: dict[str, Any] = {name: getattr(model, name) for name in names}
    rules |= {name: getattr(model, name) or "" for name in ("continuing_subword_prefix", "end_of_word_suffix")}
    for name in ("normalizer", "pre_tokenizer"):
        part = getattr(tokenizer, name)
        rules[name] = _without_offsets(json.loads(part.__getstate__())) if part is not None else None
    return hashlib.sha256(json.dumps(rules, sort_keys=True).encode()).hexdigest()[:16]


def _without_offsets(rule: Any) -> Any:
    if isinstance(rule, dict):
        return {key: _without_offsets(value) for key, value in rule.items() if key != "trim_offsets"}
    return [_without_offsets(value) for value in rule] if isinstance(rule, list) else rule
