"""Serve saved Hugging Face models one after another, each as described by its directory."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from megatron_pz.config.schema import RolloutConfig
from megatron_pz.corpus.manifest import file_sha256, read_manifest, tokenizer_sha256
from megatron_pz.corpus.passages import parse_blend
from megatron_pz.corpus.plain_text import read_plain_text
from megatron_pz.hf.checkpoint import HFTensorSource
from megatron_pz.hf.config import HFConfigReader, read_json
from megatron_pz.hf.directory import checkpoint_shapes, has_tied_head, read_hf_config, require_end_tokens
from megatron_pz.rollout.engine import VllmEngine
from megatron_pz.rollout.weight_sync import load_weights
from megatron_pz.run.inputs import require_tokenizer_fits
from megatron_pz.runtime.errors import BadInput, one_line

_WITHOUT_EFFECT = ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache")
"""Keys of config.json without effect in an engine; the dtype comes from the run's configuration."""
_TOKENIZER_SETTINGS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")


@dataclass(frozen=True)
class ServedModel:
    """A model directory and all facts that determine its engine's results, except the values of the weights."""

    directory: Path
    tokenizer_dir: Path
    facts: dict[str, Any]
    """Models of equal facts can take turns in one engine."""

    @classmethod
    def of(cls, directory: Path, tokenizer_dir: str | Path) -> ServedModel:
        """Read the facts. Raise :class:`BadInput` for a directory without a model or a tokenizer."""
        hf_config, place = read_hf_config(directory), Path(tokenizer_dir)
        generation = directory / "generation_config.json"
        facts = {
            "config": {key: value for key, value in hf_config.items() if key not in _WITHOUT_EFFECT},
            "end tokens": read_json(generation).get("eos_token_id") if generation.is_file() else None,
            "tensors": checkpoint_shapes(directory, tied_head=has_tied_head(directory, hf_config)),
            "tokenizer": tokenizer_sha256(place),
            "tokenizer settings": {
                name: file_sha256(place / name) for name in _TOKENIZER_SETTINGS if (place / name).is_file()
            },
        }
        return cls(directory, place, facts)

    def open_tokenizer(self) -> PreTrainedTokenizerBase:
        """Open the tokenizer. Raise :class:`BadInput` if transformers cannot, or if the model lacks its tokens."""
        try:
            tokenizer = AutoTokenizer.from_pretrained(self.tokenizer_dir)
        except (OSError, ValueError) as error:
            raise BadInput(f"no tokenizer in {self.tokenizer_dir}: {one_line(error)}") from None
        vocabulary = HFConfigReader(self.facts["config"], self.directory / "config.json").size("vocab_size")
        require_tokenizer_fits(tokenizer, self.tokenizer_dir, self.directory, vocabulary)
        require_end_tokens(self.directory, vocabulary)
        return read_plain_text(tokenizer)

    @property
    def positions(self) -> int:
        """Return the model's maximum number of tokens of a text."""
        return HFConfigReader(self.facts["config"], self.directory / "config.json").size("max_position_embeddings")

    def weights_sha256(self) -> dict[str, str]:
        """Hash the files that hold the weights; reads all of them."""
        return {path.name: file_sha256(path) for path in sorted(self.directory.glob("*.safetensors"))}


def engines_in_turn(
    models: Sequence[ServedModel], rollout: Callable[[ServedModel], RolloutConfig], *, colocated: bool
) -> Generator[tuple[ServedModel, VllmEngine], None, None]:
    """Yield each model with an engine that serves it until the next one is requested.

    A running engine loads the weights of the next model if both agree in facts and settings; otherwise the next model
    gets a new engine. Collective if ``colocated``.
    """
    engine: VllmEngine | None = None
    former: ServedModel | None = None
    try:
        for model in models:
            settings = rollout(model)
            if engine and former and former.facts == model.facts and engine.rollout == settings:
                source = HFTensorSource(model.directory)
                if engine.tied_head:
                    source.require_tied_head()
                load_weights(engine, source.stream(tied_head=engine.tied_head))
            else:
                if engine is not None:
                    engine.close()
                engine = VllmEngine(
                    model.directory, settings, seed=0, colocated=colocated, tokenizer_dir=model.tokenizer_dir
                )
            former = model
            yield model, engine
    finally:
        if engine is not None:
            engine.close()


def corpus_tokenizer_dir(data_path: Sequence[str], models: Sequence[ServedModel]) -> str:
    """Return the directory of the first model whose tokenizer made the corpus, or of the first model."""
    made_with = {read_manifest(prefix)["tokenizer"]["sha256"] for prefix in parse_blend(data_path)[0]}
    fitting = (model for model in models if {model.facts["tokenizer"]} == made_with)
    return str(next(fitting, models[0]).tokenizer_dir)
