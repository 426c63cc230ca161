"""Token ids of both backends, compared with transformers' AutoTokenizer, and failures of gigatoken."""

from __future__ import annotations

import json
import pickle
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast, Qwen2Tokenizer

from megatron_pz.runtime.errors import BadInput
from megatron_pz.wikipedia.tokenize import hf_tokenizer, text_encoder
from megatron_pz.wikipedia.tokenize.hf_tokenizer import load_hf_tokenizer
from megatron_pz.wikipedia.tokenize.text_encoder import HARD_CASES, TextEncoder

BACKENDS = ("gigatoken", "huggingface")
TEXTS = (*HARD_CASES, "The mask generator picks a span.\n\nThe predictor recovers it: \\boxed{span}.", "ÿ\x04\x06é" * 3)


def expected_ids(folder: Path, texts: tuple[str, ...]) -> list[list[int]]:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return [tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"] for text in texts]


@pytest.fixture(scope="module")
def byteless_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a tokenizer without tokens for many bytes (SmolLM2's lacks some), which merges across missing bytes."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator(
        ["The mask generator picks a span, and the predictor recovers it."] * 3,
        trainers.BpeTrainer(vocab_size=90, special_tokens=["<|endoftext|>"], show_progress=False),
    )
    folder = tmp_path_factory.mktemp("byteless")
    PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|endoftext|>").save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def qwen_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a tiny tokenizer of Qwen's class, which builds its rules in code."""
    vocabulary = {token: number for number, token in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    merges = [("Ġ", "t"), ("h", "e"), ("Ġt", "he"), ("1", "2")]
    vocabulary |= {first + second: len(vocabulary) + number for number, (first, second) in enumerate(merges)}
    folder = tmp_path_factory.mktemp("qwen")
    Qwen2Tokenizer(vocab=vocabulary, merges=merges).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", ["tiny_tokenizer_dir", "byteless_dir", "qwen_dir"])
def test_ids_are_those_of_autotokenizer(kind: str, backend: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(kind)
    encoder = TextEncoder(str(folder), backend)  # type: ignore[arg-type]
    reference = AutoTokenizer.from_pretrained(folder)
    ids = encoder.encode(TEXTS)
    assert [found.tolist() for found in ids] == expected_ids(folder, TEXTS)
    assert {found.dtype for found in ids} == {np.dtype(np.uint32)}
    assert encoder.count(TEXTS) == [len(found) for found in ids]
    assert (encoder.vocab_size, encoder.eod) == (len(reference), reference.eos_token_id)
    assert encoder.backend.startswith({"gigatoken": "gigatoken 0.", "huggingface": "tokenizers 0."}[backend])


def test_texts_of_any_kind_are_the_same_for_both(tiny_tokenizer_dir: Path, byteless_dir: Path, qwen_dir: Path) -> None:
    pairs = [
        [TextEncoder(str(folder), backend) for backend in BACKENDS]  # type: ignore[arg-type]
        for folder in (tiny_tokenizer_dir, byteless_dir, qwen_dir)
    ]

    @settings(max_examples=60, deadline=None)
    @given(st.lists(st.text(), max_size=4))
    def check(texts: list[str]) -> None:
        for fast, slow in pairs:
            both = zip(fast.encode(texts), slow.encode(texts), strict=True)
            assert all(np.array_equal(ids, expected) for ids, expected in both)

    check()


@pytest.mark.parametrize("kind", ["tiny_tokenizer_dir", "qwen_dir"])
def test_transformers_is_not_asked_where_the_file_says_all(
    kind: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(hf_tokenizer, "_load_with_transformers")
    assert load_hf_tokenizer(str(request.getfixturevalue(kind))).is_plain


def other_rules(definition: dict, config: dict) -> None:
    """Return rules that keep digits together in the file, although the class splits them."""
    definition["pre_tokenizer"] = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}


def another_token(definition: dict, config: dict) -> None:
    config["pad_token"] = "<|pad|>"


def another_model(definition: dict, config: dict) -> None:
    config |= {"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": False}


@pytest.mark.parametrize("change", [other_rules, another_token, another_model])
def test_what_transformers_would_change_is_changed(
    change: Callable[[dict, dict], None], qwen_dir: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "changed"
    shutil.copytree(qwen_dir, folder)
    paths = [folder / "tokenizer.json", folder / "tokenizer_config.json"]
    contents = [json.loads(path.read_text()) for path in paths]
    change(*contents)
    for path, content in zip(paths, contents, strict=True):
        path.write_text(json.dumps(content))
    assert not load_hf_tokenizer(str(folder)).is_plain
    texts = (*TEXTS, "<|pad|> 1212 the 12")
    encoder = TextEncoder(str(folder))
    assert [ids.tolist() for ids in encoder.encode(texts)] == expected_ids(folder, texts)
    assert encoder.vocab_size == len(AutoTokenizer.from_pretrained(folder))


def test_truncation_and_padding_of_the_file_are_off(tiny_tokenizer_dir: Path, tmp_path: Path) -> None:
    folder = tmp_path / "short"
    shutil.copytree(tiny_tokenizer_dir, folder)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=8)
    tokenizer.save(str(folder / "tokenizer.json"))
    for backend in BACKENDS:
        (ids,) = TextEncoder(str(folder), backend).encode(["a river and a hill"])  # type: ignore[arg-type]
        (expected,) = TextEncoder(str(tiny_tokenizer_dir), "huggingface").encode(["a river and a hill"])
        assert ids.tolist() == expected.tolist()


def test_without_gigatoken_hugging_face_encodes(
    tiny_tokenizer_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "gigatoken", None)
    assert TextEncoder(str(tiny_tokenizer_dir)).backend.startswith("tokenizers ")
    assert capsys.readouterr().err.startswith("gigatoken is not installed: tokenizers ")
    with pytest.raises(BadInput, match=r"^--tokenizer-backend gigatoken: is not installed; pip install gigatoken"):
        TextEncoder(str(tiny_tokenizer_dir), "gigatoken")


def off_by_one(encode: Callable) -> Callable:
    return lambda *arguments: [ids + 1 for ids in encode(*arguments)]


def unknown(encode: Callable) -> Callable:
    def fail(*arguments: object) -> None:
        raise ValueError("no such\npretokenizer")

    return fail


@pytest.mark.parametrize(
    ("fault", "words"),
    [(off_by_one, "differs from Hugging Face on 'In 1887"), (unknown, r"cannot load it \(no such pretokenizer\)")],
)
def test_a_gigatoken_that_disagrees_is_not_used(
    fault: Callable[[Callable], Callable],
    words: str,
    tiny_tokenizer_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(text_encoder._Gigatoken, "encode", fault(text_encoder._Gigatoken.encode))
    encoder = TextEncoder(str(tiny_tokenizer_dir))
    assert [ids.tolist() for ids in encoder.encode(TEXTS)] == expected_ids(tiny_tokenizer_dir, TEXTS)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: gigatoken 0.")
    assert f"{encoder.backend} is used" in line
    with pytest.raises(BadInput, match=words) as refused:
        TextEncoder(str(tiny_tokenizer_dir), "gigatoken")
    assert "\n" not in str(refused.value)


def test_a_gigatoken_that_fails_later_is_found(tiny_tokenizer_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_encoder, "_AUDIT_EVERY", 5)
    encoder = TextEncoder(str(tiny_tokenizer_dir))
    for _ in range(4):
        encoder.encode(["a river", "a hill"])
    monkeypatch.setattr(text_encoder._Gigatoken, "encode", off_by_one(text_encoder._Gigatoken.encode))
    encoder.encode(["unnoticed"])
    with pytest.raises(BadInput, match=r"differ on the text 'a hill'; run again with --tokenizer-backend huggingface"):
        encoder.encode(["a hill", "a river"])


def test_memory_of_words_is_dropped_now_and_then(byteless_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_encoder, "_RENEW_AFTER", 100)
    encoder = TextEncoder(str(byteless_dir))
    loaded = []
    new = encoder._gigatoken._new
    monkeypatch.setattr(encoder._gigatoken, "_new", lambda definition: loaded.append(1) or new(definition))
    texts = tuple(f"mask {number} picks a span\x04" for number in range(40))
    assert [encoder.encode([text])[0].tolist() for text in texts] == expected_ids(byteless_dir, texts)
    assert 5 < len(loaded) < 20


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_encoder_can_be_sent_to_another_process(tiny_tokenizer_dir: Path, backend: str) -> None:
    encoder = TextEncoder(str(tiny_tokenizer_dir), backend)  # type: ignore[arg-type]
    other = pickle.loads(pickle.dumps(encoder))
    assert other.backend == encoder.backend
    assert [ids.tolist() for ids in other.encode(TEXTS)] == [ids.tolist() for ids in encoder.encode(TEXTS)]


def test_a_broken_tokenizer_is_one_line(tiny_tokenizer_dir: Path, tmp_path: Path) -> None:
    folder = tmp_path / "broken"
    shutil.copytree(tiny_tokenizer_dir, folder)
    whole = (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").write_text(whole[: len(whole) // 2])
    with pytest.raises(BadInput, match=r"broken: transformers cannot load it \(") as refused:
        TextEncoder(str(folder))
    assert "\n" not in str(refused.value)
