"""tools/evaluate.py serves each model as described by its directory. The reference is transformers in float32."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from megatron_pz.config.schema import RunConfig
from megatron_pz.evaluation.results import EvaluationSettings
from megatron_pz.hf.directory import INDEX, SINGLE
from megatron_pz.rollout.engine import VllmEngine
from megatron_pz.run.evaluation import saved_models_on_passages, served_models
from megatron_pz.runtime.errors import BadInput
from tests.conftest import TINY_VOCAB_SIZE
from tests.support.rollout_reference import SETTINGS, largest_difference, random_prompts

PROMPTS = random_prompts(4, vocabulary=TINY_VOCAB_SIZE, shortest=20, longest=90)


def other(source: Path, folder: Path, scale: float = 1.0, **config: object) -> Path:
    """Return a copy of a model with other keys in config.json and all matrices scaled."""
    shutil.copytree(source, folder)
    raw = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**raw, **config}))
    tensors = load_file(folder / SINGLE)
    save_file(
        {name: tensor * (scale if tensor.dim() > 1 else 1.0) for name, tensor in tensors.items()}, folder / SINGLE
    )
    return folder


def difference(engine: VllmEngine, directory: Path) -> float:
    """Return the largest difference between the engine's log-probabilities and those of transformers."""
    groups = engine.generate(PROMPTS, 2, seeds=range(len(PROMPTS)), max_tokens=12, stop=[])
    return largest_difference(AutoModelForCausalLM.from_pretrained(directory).float().eval(), PROMPTS, groups)


@pytest.mark.usefixtures("one_rank_process_group")
def test_each_model_is_served_as_its_directory_describes_it(
    tiny_llama_dir: Path, tiny_qwen3_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rope = {"rope_parameters": {"rope_type": "default", "rope_theta": 500_000.0}}
    directories = [
        tiny_llama_dir,
        other(tiny_llama_dir, tmp_path / "same config", scale=1.1, dtype="float32"),
        other(tiny_llama_dir, tmp_path / "other rope and eps", rms_norm_eps=0.3, **rope),
        tiny_qwen3_dir,
        other(tiny_llama_dir, tmp_path / "other end token", eos_token_id=7),
    ]
    for directory, end in ((tiny_llama_dir, 0), (directories[-1], 7)):
        generation = json.loads((directory / "generation_config.json").read_text())
        generation |= {
            "eos_token_id": end,
            "repetition_penalty": 5.0,
            "top_k": 3,
            "temperature": 0.2,
            "do_sample": True,
        }
        if directory != tiny_llama_dir:
            (directory / "generation_config.json").write_text(json.dumps(generation))
    found: dict[str, tuple[float, set[int]]] = {}
    starts = []

    def measured(name: str, engine: VllmEngine, tokenizer: object, *_: object) -> str:
        ended = engine.generate([[5, 6]], 64, seeds=[1], max_tokens=32, stop=[])[0]
        last = {response.token_ids[-1] for response in ended if not response.truncated}
        found[name] = (difference(engine, Path(name)), last)
        return name

    class CountedEngine(VllmEngine):
        def __init__(self, *args: object, **kwargs: object) -> None:
            starts.append(args[0])
            super().__init__(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(saved_models_on_passages, "evaluate", measured)
    monkeypatch.setattr(saved_models_on_passages, "gathered", lambda part: part)
    monkeypatch.setattr(served_models, "VllmEngine", CountedEngine)
    names = [str(directory) for directory in directories]
    config = dataclasses.replace(RunConfig(), rollout=SETTINGS)
    models = [served_models.ServedModel.of(directory, directory) for directory in directories]
    settings = EvaluationSettings(max_prompt_length=96, max_response_length=32)
    # world_size 2 makes the engines colocated, in the process group of this one rank.
    found_names = saved_models_on_passages.evaluate_models(models, names, [], config, settings, rank=0, world_size=2)
    assert found_names == names
    assert all(off < 2e-4 for off, _ in found.values()), found
    assert [ends for _, ends in found.values()] == [{0}, {0}, {0}, {0}, {0, 7}], "the tokenizer ends with 0"
    assert starts == [directories[index] for index in (0, 2, 3, 4)], "equal models share an engine"


@pytest.mark.usefixtures("one_rank_process_group")
def test_the_engine_reads_the_files_that_transformers_reads(tiny_llama_dir: Path, tmp_path: Path) -> None:
    """The engine ignores a stale index beside model.safetensors, which vLLM alone would follow."""
    folder = Path(shutil.copytree(tiny_llama_dir, tmp_path / "model"))
    stale = {name: torch.zeros_like(tensor) for name, tensor in load_file(folder / SINGLE).items()}
    save_file(stale, folder / "model-00001-of-00001.safetensors")
    places = dict.fromkeys(stale, "model-00001-of-00001.safetensors")
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": places}))
    with VllmEngine(folder, SETTINGS, seed=0, colocated=True) as engine:
        assert difference(engine, tiny_llama_dir) < 2e-4


@pytest.mark.usefixtures("one_rank_process_group")
def test_heads_that_the_cpu_does_not_serve_are_refused_in_one_line(tiny_qwen3_dir: Path, tmp_path: Path) -> None:
    folder = other(tiny_qwen3_dir, tmp_path / "model", head_dim=48)
    with pytest.raises(BadInput, match=r"heads have 48 channels, and vLLM's attention on a CPU serves only 32, 64,"):
        VllmEngine(folder, SETTINGS, seed=0, colocated=True)


@pytest.mark.usefixtures("one_rank_process_group")
def test_a_tied_model_with_another_output_layer_is_refused(tiny_qwen3_dir: Path, tmp_path: Path) -> None:
    folder = other(tiny_qwen3_dir, tmp_path / "model", tie_word_embeddings=True)
    with pytest.raises(BadInput, match=r"tie_word_embeddings true, but lm_head\.weight differs"):
        VllmEngine(folder, SETTINGS, seed=0, colocated=True)
