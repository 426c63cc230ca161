"""Provide the common parts of all tests: few threads, no network, and a tiny tokenizer with tiny pretrained models."""

from __future__ import annotations

import os

# Before torch, tokenizers or transformers are imported: each reads its variables once.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import gc
import importlib.util
import signal
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.scripted_run import ScriptedEngine

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell ignores signals in background jobs; children inherit this, and bash cannot trap an ignored signal.
    signal.signal(signal.SIGINT, signal.default_int_handler)

MIXTURE_LAYERS, MIXTURE_EXPERTS, MIXTURE_CHOSEN = 4, 8, 2
TINY_VOCAB_SIZE = 331
"""Prime, so that no parallel size divides it and vocabulary padding is always exercised."""

_SENTENCES = (
    "The old castle stands on a hill above the river, and the river gave the town its name.",
    "Water boils at one hundred degrees at sea level; at higher altitude it boils at a lower temperature.",
    "The composer wrote four symphonies, two operas and a large number of songs for voice and piano.",
    "In 1887 the railway reached the village, and within ten years its population had doubled.",
    "A group of eight answers is scored, and the mean of the group is taken from every reward.",
    "The species lives in the forests of northern Europe, where it feeds on seeds, insects and berries.",
    "Paragraph: words to mask: \\mask{river} Passage: masked words: \\boxed{river} [mask]",
)


@pytest.hookimpl(wrapper=True)
def pytest_collection(session: pytest.Session) -> Generator[None, object, object]:
    """Adjust garbage collection and hypothesis around the import of test modules, except in xdist's controller.

    The import leaves a million objects, which are excluded from garbage collection. A collection would take a third of
    a second, and Megatron-Core requests one in every checkpoint. Examples of hypothesis have no time limit, which a
    busy machine would exceed.
    """
    if session.config.pluginmanager.has_plugin("dsession"):
        return (yield)
    if importlib.util.find_spec("hypothesis"):  # the tests of a GPU do without it
        from hypothesis import settings

        settings.register_profile("any machine", deadline=None)
        settings.load_profile("any machine")
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.collect()  # collect now: Python's next full collection waits for a quarter as many new objects
        gc.enable()
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start with the files that hold the longest tests, which have time limits of their own.

    Where files run side by side, the last one then ends soon after the others.
    """
    limits: dict[Path, float] = {}
    for item in items:
        limit = item.get_closest_marker("timeout")
        limits[item.path] = max(limits.get(item.path, 0.0), limit.args[0] if limit else 0.0)
    items.sort(key=lambda item: -limits[item.path])


@pytest.fixture(scope="session")
def tiny_tokenizer_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory of a byte-level BPE tokenizer with 331 tokens: any text round-trips.

    ``<|endoftext|>`` ends a text.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=TINY_VOCAB_SIZE,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(_SENTENCES, trainer)
    assert bpe.get_vocab_size() == TINY_VOCAB_SIZE
    folder = tmp_path_factory.mktemp("tiny_tokenizer")
    PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token="<|endoftext|>", pad_token="<|endoftext|>", clean_up_tokenization_spaces=False
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_qwen3_dir(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer_dir: Path) -> Path:
    """Return the directory of a random float32 Qwen3 (2 layers, 4 heads, 2 groups, untied) with the tiny tokenizer.

    Its head size of 32 differs from hidden size / heads = 16, as in Qwen3, and vLLM's CPU attention supports it.
    """
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        vocab_size=TINY_VOCAB_SIZE,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=2048,
        tie_word_embeddings=False,
        initializer_range=0.1,
        eos_token_id=0,
    )
    return _save_random_model(Qwen3ForCausalLM, config, tiny_tokenizer_dir, tmp_path_factory.mktemp("tiny_qwen3"))


@pytest.fixture(scope="session")
def tiny_mixture_dir(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer_dir: Path) -> Path:
    """Return the directory of a random float32 Qwen3-MoE with 4 layers, the second without experts, and top-2 of 8."""
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    config = Qwen3MoeConfig(
        vocab_size=TINY_VOCAB_SIZE,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=MIXTURE_LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        num_experts=MIXTURE_EXPERTS,
        num_experts_per_tok=MIXTURE_CHOSEN,
        moe_intermediate_size=64,  # vLLM's CPU build pads other sizes, and then cannot reload them
        norm_topk_prob=True,
        mlp_only_layers=[1],
        max_position_embeddings=2048,
        tie_word_embeddings=False,
        initializer_range=0.1,
        eos_token_id=0,
    )
    return _save_random_model(Qwen3MoeForCausalLM, config, tiny_tokenizer_dir, tmp_path_factory.mktemp("tiny_mixture"))


@pytest.fixture(scope="session")
def tiny_llama_dir(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer_dir: Path) -> Path:
    """Return the directory of a random float32 Llama (2 layers, 4 heads, 2 groups, tied) with the tiny tokenizer."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=TINY_VOCAB_SIZE,
        hidden_size=128,
        intermediate_size=192,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        initializer_range=0.1,
        eos_token_id=0,
    )
    return _save_random_model(LlamaForCausalLM, config, tiny_tokenizer_dir, tmp_path_factory.mktemp("tiny_llama"))


@pytest.fixture(scope="session")
def tiny_smollm3_dir(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer_dir: Path) -> Path:
    """Return the directory of a random float32 SmolLM3 (2 layers, the second without RoPE) with the tiny tokenizer."""
    from transformers import SmolLM3Config, SmolLM3ForCausalLM

    config = SmolLM3Config(
        vocab_size=TINY_VOCAB_SIZE,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        no_rope_layers=[1, 0],
        initializer_range=0.1,
        pad_token_id=0,
        bos_token_id=0,
        eos_token_id=0,
    )
    return _save_random_model(SmolLM3ForCausalLM, config, tiny_tokenizer_dir, tmp_path_factory.mktemp("tiny_smollm3"))


def _save_random_model(model_class: type, config: object, tokenizer_dir: Path, folder: Path) -> Path:
    import torch
    from transformers import AutoTokenizer

    with torch.random.fork_rng():
        torch.manual_seed(20251203)
        model = model_class(config).float()
        for weight in model.parameters():
            if weight.dim() == 1:  # norms start as ones, so a mapping that swaps two of them would not be detected
                weight.data.uniform_(0.5, 1.5)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tokenizer_dir).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_corpus(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer_dir: Path) -> str:
    """Return the prefix of a corpus of ``tests.support.tiny_corpus.PASSAGES``, with one article each."""
    from tests.support.tiny_corpus import PASSAGES, write_corpus

    return write_corpus(tmp_path_factory.mktemp("corpus") / "tiny", tiny_tokenizer_dir, [[text] for text in PASSAGES])


@pytest.fixture
def scripted_engines(monkeypatch: pytest.MonkeyPatch) -> type[ScriptedEngine]:
    """Make runs of this test start scripted engines instead of vLLM's (``tests.support.scripted_run``)."""
    from tests.support.scripted_run import script_engines

    return script_engines(monkeypatch)


@pytest.fixture(scope="session", autouse=True)
def _unit_tests_stay_without_vllm(request: pytest.FixtureRequest) -> Iterator[None]:
    """Check that a session of only unit tests has not imported vLLM, which takes seconds and starts native threads."""
    yield
    groups = {item.path.relative_to(Path(__file__).parent).parts[0] for item in request.session.items}
    assert groups != {"unit"} or "vllm" not in sys.modules, "a unit test imported vllm; move it to tests/system/"
