"""Make tokenizers that never read text as control tokens, such as ``<|endoftext|>`` or ``<think>`` in a page.

A page that spells a control token would otherwise look like two documents, or like the start of a chat turn. Its
characters are encoded as ordinary text, so that decoding restores the page.
"""

from __future__ import annotations

import json
import re
import string
from typing import TYPE_CHECKING, Any, Final

from tokenizers import AddedToken, Tokenizer

from megatron_pz.runtime.errors import BadInput

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_ADDED_TOKENS: Final = re.compile(r'"added_tokens"\s*:\s*(?=\[)')
"""Start of the added tokens in a ``tokenizer.json``; quotes inside its strings have a backslash before them."""
_BYTE_TOKEN: Final = re.compile(r"<0x[0-9A-F]{2}>")
_WHITE_SPACE: Final = string.whitespace + "\u2581"
_UNREACHABLE: Final = -1e6
"""Score of a piece that a unigram model uses only if no other piece fits."""


def read_plain_text(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """Make a Hugging Face tokenizer read every text as text, and return it.

    Vocabulary, control ids and decoding stay the same, except that ``decode(skip_special_tokens=True)`` then also skips
    added tokens that are not special, such as Qwen's ``<think>``. A tokenizer without ``tokenizer.json`` is unaffected.

    Raises:
        BadInput: The model puts a control token together from its characters.
    """
    tokenizer.split_special_tokens = True
    if tokenizer.is_fast:
        backend = tokenizer.backend_tokenizer
        tokenizer._tokenizer, _ = plain_text_tokenizer(backend, backend.to_str())
    return tokenizer


def plain_text_tokenizer(tokenizer: Tokenizer, definition: str) -> tuple[Tokenizer, str]:
    """Make a tokenizer that knows its control tokens and never encodes a text as one.

    Args:
        tokenizer: It may be changed.
        definition: The ``tokenizer.json`` that describes it.

    Returns:
        The tokenizer, and a ``tokenizer.json`` for libraries that cannot read added tokens as text: it has none, except
        those of white space, which are text.

    Raises:
        BadInput: The model puts a control token together from its characters.
    """
    _make_special(tokenizer)
    if _confused_by(tokenizer):
        definition = _without_spellings(definition)
        tokenizer = Tokenizer.from_str(definition)
        _make_special(tokenizer)
    if confusing := _confused_by(tokenizer):
        raise BadInput(
            f"the tokenizer encodes the text {confusing!r} as a control token, so a page that spells it would look "
            "like two documents; use a tokenizer with a BPE or a unigram model"
        )
    return tokenizer, _without_added_tokens(definition)


def _is_white_space(content: str) -> bool:
    """Return whether an added token is white space (``▁`` in SentencePiece), which counts as text."""
    return not content.strip(_WHITE_SPACE)


def _make_special(tokenizer: Tokenizer) -> None:
    """Mark all added tokens except white space as special, and read special tokens in text as text."""
    for token in tokenizer.get_added_tokens_decoder().values():
        if not token.special and not _is_white_space(token.content):
            flags = {flag: getattr(token, flag) for flag in ("single_word", "lstrip", "rstrip", "normalized")}
            tokenizer.add_special_tokens([AddedToken(token.content, special=True, **flags)])
    tokenizer.encode_special_tokens = True


def _confused_by(tokenizer: Tokenizer) -> str:
    """Return the spelling of a control or byte token that is encoded as that token, or an empty string."""
    model = tokenizer.model
    unknown = getattr(model, "unk_token", None)
    for number, token in tokenizer.get_added_tokens_decoder().items():
        is_text = _is_white_space(token.content) or token.content == unknown
        if not is_text and number in tokenizer.encode(token.content, add_special_tokens=False).ids:
            return token.content
    for name in (f"<0x{byte:02X}>" for byte in range(256) if getattr(model, "byte_fallback", False)):
        # The token itself is legitimate if the vocabulary lacks one of these characters; decoding shows this.
        ids = tokenizer.encode(name, add_special_tokens=False).ids
        if tokenizer.token_to_id(name) in ids and name not in tokenizer.decode(ids, skip_special_tokens=False):
            return name
    return ""


def _without_added_tokens(definition: str) -> str:
    begin = _ADDED_TOKENS.search(definition)
    if begin is None:
        return definition
    tokens, end = json.JSONDecoder().raw_decode(definition, begin.end())
    kept = [token for token in tokens if _is_white_space(token["content"])]
    return definition[: begin.end()] + json.dumps(kept) + definition[end:]


def _without_spellings(definition: str) -> str:
    """Prevent the model from merging characters into a control or byte token."""
    rules: dict[str, Any] = json.loads(definition)
    model = rules["model"]
    spelled = {token["content"] for token in rules["added_tokens"] if not _is_white_space(token["content"])}

    def is_control(piece: str) -> bool:
        return piece in spelled or (bool(model.get("byte_fallback")) and _BYTE_TOKEN.fullmatch(piece) is not None)

    if model["type"] == "BPE":
        pairs = (merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"])
        model["merges"] = [pair for pair in pairs if not is_control("".join(pair))]
    elif model["type"] == "Unigram":
        model["vocab"] = [[piece, _UNREACHABLE if is_control(piece) else score] for piece, score in model["vocab"]]
    return json.dumps(rules, ensure_ascii=False)
