"""Refusals of the command lines in one line before expensive work, besides those in other tests."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from megatron_pz.config.schema import ModelConfig
from megatron_pz.run.inputs import open_tokenizer
from megatron_pz.runtime.errors import BadInput
from tools import convert_checkpoint, play


def refused(capsys: pytest.CaptureFixture[str], stop: pytest.ExceptionInfo[SystemExit]) -> str:
    """Run a command that must refuse; return its line."""
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.fixture
def without_tokenizer(tiny_llama_dir: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(tiny_llama_dir / name, folder)
    return folder


def test_a_model_without_a_tokenizer_is_told_in_our_words(without_tokenizer: Path) -> None:
    with pytest.raises(BadInput, match=r"no tokenizer\.json there"):
        open_tokenizer(ModelConfig(hf_model=str(without_tokenizer)))


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--hf-model", "{model}", "--text", " "], "--text is empty"),
        (["--hf-model", "Qwen/Qwen3-4B-Base", "--text", "a b"], "no config.json there"),
        (["--hf-model", "{model}", "--text", "a b"], "no tokenizer.json there"),
    ],
)
def test_play(
    flags: list[str], words: str, without_tokenizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.yaml").write_text("game: {prompt_family: quote}")
    given = [flag.format(model=without_tokenizer) for flag in flags]
    with pytest.raises(SystemExit) as stop:
        play.main(["--config", str(tmp_path / "config.yaml"), *given])
    assert words in refused(capsys, stop)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["hf-to-megatron", "--save", "{file}"], "/file: the directory cannot be made (File exists)"),
        (["megatron-to-hf", "--load", "{run}", "--iteration", "7", "--save", "{new}"], "(it has 3, 12)"),
        (["megatron-to-hf", "--load", "{run}", "--iteration", "3", "--save", "{new}"], "iter_0000003 cannot be loaded"),
        (["megatron-to-hf", "--load", "{new}", "--save", "{new}"], "there is no checkpoint in"),
    ],
)
def test_convert(
    flags: list[str],
    words: str,
    tiny_llama_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "file").touch()
    for iteration in (3, 12):
        folder = tmp_path / "run" / f"iter_{iteration:07d}"
        folder.mkdir(parents=True)
        (folder / "run_state.json").touch()  # the mark of a complete one
    (tmp_path / "run" / "iter_0000003" / ".metadata").write_bytes(b"\x80" * 99)
    places = {name: tmp_path / name for name in ("file", "run", "new")}
    given = [flag.format(**places) for flag in flags]
    monkeypatch.setattr(sys, "argv", ["convert_checkpoint.py", *given, "--hf-model", str(tiny_llama_dir)])
    with pytest.raises(SystemExit) as stop:
        convert_checkpoint.main()
    assert words in refused(capsys, stop)


def test_play_with_weights_that_are_cut_off(
    tiny_llama_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.yaml").write_text("game: {prompt_family: quote}")
    model = Path(shutil.copytree(tiny_llama_dir, tmp_path / "model"))
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    with pytest.raises(SystemExit) as stop:
        play.main(["--config", str(tmp_path / "config.yaml"), "--hf-model", str(model), "--text", "a b"])
    assert "transformers cannot load --hf-model" in refused(capsys, stop)


def test_play_with_a_text_longer_than_any_in_training(
    tiny_llama_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.yaml").write_text("game: {prompt_family: quote}\nrollout: {max_prompt_length: 40}")
    with pytest.raises(SystemExit) as stop:
        play.main(["--config", str(tmp_path / "config.yaml"), "--hf-model", str(tiny_llama_dir), "--text", "a b " * 30])
    assert "tokens, above the configuration's max_prompt_length 40" in refused(capsys, stop)


@pytest.mark.parametrize("ends", [5, [7, 5], None])
def test_play_knows_every_token_that_ends_the_model_s_text(
    ends: int | list[int] | None, tiny_llama_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Path(shutil.copytree(tiny_llama_dir, tmp_path / "model"))
    (model / "generation_config.json").write_text(json.dumps({"eos_token_id": ends}))
    engine = play.GreedyEngine(model, max_prompt_length=9)
    monkeypatch.setattr(engine.model, "generate", lambda inputs, **_: torch.cat([inputs, torch.tensor([[9, 5]])], 1))
    ((response,),) = engine.generate([[1, 2]], 1, seeds=[0], max_tokens=4, stop=())
    assert response.truncated is (ends is None), "cut off, unless token 5 ends it"
    assert engine.tokenizer.eos_token_id in engine.ends, "as vLLM has it in rollouts"


def test_play_decodes_greedily_whatever_generation_config_says(tiny_llama_dir: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(tiny_llama_dir, tmp_path / "model"))
    odd = {"repetition_penalty": 9.0, "no_repeat_ngram_size": 1, "num_beams": 3, "min_new_tokens": 7, "do_sample": True}
    (model / "generation_config.json").write_text(json.dumps({"eos_token_id": 0, **odd}))
    plain, configured = (play.GreedyEngine(each, 99) for each in (tiny_llama_dir, model))
    prompts = [list(range(first, first + 5)) for first in range(3, 90, 7)]
    answers = [
        [each.token_ids for (each,) in engine.generate(prompts, 1, seeds=[0] * len(prompts), max_tokens=12, stop=())]
        for engine in (plain, configured)
    ]
    assert answers[0] == answers[1]
    tokens = list(prompts[0])
    with torch.inference_mode():  # by hand: the most likely token, again and again
        for _ in answers[0][0]:
            tokens.append(int(plain.model(torch.tensor([tokens])).logits[0, -1].argmax()))
    assert tuple(tokens[5:]) == answers[0][0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_conversion_there_and_back_keeps_every_bit_and_the_dtype(
    dtype: torch.dtype, tiny_llama_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stray buffers in float32 do not widen the dtype; float16 stays float16."""
    model = Path(shutil.copytree(tiny_llama_dir, tmp_path / "model"))
    weights = {name: tensor.to(dtype) for name, tensor in load_file(model / "model.safetensors").items()}
    stray = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8)}
    save_file({**weights, **stray}, model / "model.safetensors")
    for flags in (
        ["hf-to-megatron", "--save", str(tmp_path / "run")],
        ["megatron-to-hf", "--load", str(tmp_path / "run"), "--save", str(tmp_path / "hf")],
    ):
        monkeypatch.setattr(sys, "argv", ["convert_checkpoint.py", *flags, "--hf-model", str(model)])
        convert_checkpoint.main()
    again = load_file(tmp_path / "hf" / "model.safetensors")
    assert again.keys() == weights.keys()
    assert all(again[name].dtype == dtype and torch.equal(again[name], weights[name]) for name in weights)
    assert json.loads((tmp_path / "hf" / "config.json").read_text())["dtype"] == str(dtype).removeprefix("torch.")


@pytest.mark.parametrize(
    ("key", "value"), [("vocab_size", 300), ("vocab_size", 384), ("rms_norm_eps", 0.1), ("num_attention_heads", 8)]
)
def test_an_export_with_another_model_s_configuration_is_refused(
    key: str,
    value: float,
    tiny_llama_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def convert(*flags: str) -> None:
        monkeypatch.setattr(sys, "argv", ["convert_checkpoint.py", *flags])
        convert_checkpoint.main()

    run, out = str(tmp_path / "run"), tmp_path / "hf"
    convert("hf-to-megatron", "--save", run, "--hf-model", str(tiny_llama_dir))
    other = Path(shutil.copytree(tiny_llama_dir, tmp_path / "other"))
    raw = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**raw, key: value}))
    with pytest.raises(SystemExit) as stop:
        convert("megatron-to-hf", "--load", run, "--save", str(out), "--hf-model", str(other))
    assert f"holds a model with {key} {raw[key]}, and the config.json of --hf-model has {value}" in refused(
        capsys, stop
    )
    assert not out.exists()
