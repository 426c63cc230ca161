"""With a real tokenizer on real Wikipedia, gigatoken's corpora equal those of Hugging Face byte for byte."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from megatron_pz.corpus.indexed_dataset import IndexedTokens
from megatron_pz.wikipedia.pipeline.options import OutputOptions, PreprocessOptions
from megatron_pz.wikipedia.pipeline.pipeline import preprocess

ASSETS = Path(__file__).resolve().parents[2] / ".cache" / "quickstart" / "assets"
ARTICLES = 40

needs_assets = pytest.mark.skipif(
    not (ASSETS / "model" / "tokenizer.json").is_file() or not (ASSETS / "enwiki.xml.bz2").is_file(),
    reason=f"no dump and tokenizer in {ASSETS}; ./examples/quickstart.sh fetches them",
)


@needs_assets
def test_both_backends_make_the_same_corpus_of_a_real_dump(tmp_path: Path) -> None:
    pytest.importorskip("gigatoken")
    from transformers import AutoTokenizer

    for backend in ("gigatoken", "huggingface"):
        preprocess(
            PreprocessOptions(
                inputs=(str(ASSETS / "enwiki.xml.bz2"),),
                tokenizer_model=str(ASSETS / "model"),
                tokenizer_backend=backend,  # type: ignore[arg-type]
                output=OutputOptions(str(tmp_path / backend), limit=ARTICLES),
            )
        )
    fast, slow = (str(tmp_path / f"{backend}_text_passage") for backend in ("gigatoken", "huggingface"))
    for suffix in (".bin", ".idx", ".parquet"):
        assert Path(f"{fast}{suffix}").read_bytes() == Path(f"{slow}{suffix}").read_bytes(), suffix
    backends = [
        json.loads(Path(f"{prefix}.manifest.json").read_text())["tokenizer"]["backend"] for prefix in (fast, slow)
    ]
    assert [backend.split()[0] for backend in backends] == ["gigatoken", "tokenizers"]

    tokenizer, tokens = AutoTokenizer.from_pretrained(ASSETS / "model"), IndexedTokens(fast)
    assert len(tokens) > ARTICLES
    for index in range(0, len(tokens), 7):
        ids = tokens[index].tolist()
        text = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
        assert tokenizer(text, add_special_tokens=False)["input_ids"] == ids
