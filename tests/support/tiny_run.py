"""Small complete runs: a corpus of a dozen articles, and a tiny model that a cold start has taught both formats."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file

from tests.support.torchrun import ROOT, run_workers

PLACES = (
    "castle",
    "river",
    "bridge",
    "market",
    "harbour",
    "garden",
    "tower",
    "valley",
    "forest",
    "island",
    "canal",
    "mill",
)

CONFIG = """
model: {bf16: false}
game: {prompt_family: quote, passages_per_step: 4, masks_per_passage: 4, grpo_group_size: 8, whole_words: true,
       span_policy: one_mask, invalid_mask_penalty: -0.2, share_equal_masks: true}
rollout: {max_prompt_length: 200, max_response_length: 24, rollout_dtype: float32, rollout_max_num_seqs: 32,
          rollout_memory_gib: 0.25, max_log_prob_difference: 0.001}
optimizer: {lr: 1.0e-3, lr_decay_style: constant}
training: {micro_batch_tokens: 512, save_interval: 3, keep_last: 0}
cold_start: {cold_start_iters: 200, cold_start_passages: 4, cold_start_predictions: 4, cold_start_lr: 1.0e-2}
"""


def write_articles(folder: Path) -> Path:
    """Write a file of a dozen articles, as tools/preprocess_wikipedia.py reads it."""
    articles = [
        {
            "id": str(number),
            "title": f"The {place}",
            "text": f"The old {place} stands near the {other}, and people of the town visit the {place} every summer.",
        }
        for number, (place, other) in enumerate(zip(PLACES, PLACES[1:] + PLACES[:1], strict=True))
    ]
    source = folder / "articles.jsonl"
    source.write_text("".join(json.dumps(article) + "\n" for article in articles), encoding="utf-8")
    return source


def make_corpus(folder: Path, tokenizer_dir: Path) -> str:
    """Run tools/preprocess_wikipedia.py on the articles; return the prefix of the passages."""
    source = write_articles(folder)
    arguments = ["--input", source, "--output-prefix", folder / "tiny", "--tokenizer-model", tokenizer_dir]
    run_tool("preprocess_wikipedia.py", *arguments, "--min-article-words", 5)
    return str(folder / "tiny_text_passage")


def run_tool(name: str, *arguments: object) -> str:
    """Run a command of tools/, which must succeed, and return its output."""
    command = [sys.executable, str(ROOT / "tools" / name), *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@dataclass(frozen=True)
class TaughtRun:
    """Starts runs from a tiny model after a cold start; its answers are well-formed and sometimes right."""

    config: Path
    corpus: str
    """Prefix of the passages."""
    model: Path
    """Hugging Face folder."""

    @classmethod
    def teach(cls, folder: Path, model: Path, tokenizer_dir: Path) -> TaughtRun:
        """Write configuration and corpus under ``folder``, and run the cold start of ``model`` there on two ranks."""
        config, save = folder / "config.yaml", folder / "cold_start"
        config.write_text(CONFIG)
        untaught = cls(config, make_corpus(folder, tokenizer_dir), model)
        run_workers("megatron_pz.cold_start", 2, *untaught.flags(save), timeout=280)
        losses = [line["train/loss"] for line in metrics_of(save)]
        assert losses[-1] < losses[0] / 4
        return dataclasses.replace(untaught, model=save / "hf")

    def flags(self, save: Path, *more: object) -> list[object]:
        """Return the flags of a run that saves to ``save``."""
        common = ("--config", self.config, "--hf-model", self.model, "--data-path", self.corpus, "--save", save)
        return [*common, *more]

    def train(self, save: Path, nproc: int, *more: object) -> str:
        """Run ``megatron_pz.train`` on ``nproc`` ranks, which must succeed, and return its output."""
        return run_workers("megatron_pz.train", nproc, *self.flags(save, *more), timeout=280)

    def weights(self, save: Path, out: Path, *more: str) -> dict[str, torch.Tensor]:
        """Return a run's last checkpoint as Hugging Face tensors."""
        flags = ("--load", save, "--hf-model", self.model, "--save", out, *more)
        run_tool("convert_checkpoint.py", "megatron-to-hf", *flags)
        return load_file(out / "model.safetensors")


def metrics_of(save: Path) -> list[dict[str, float]]:
    """Return the run's metrics without its times and its memory."""
    lines = [json.loads(line) for line in (save / "metrics.jsonl").read_text().splitlines()]
    machine = ("time/", "memory/", "ahead/overlap")
    return [{name: value for name, value in line.items() if not name.startswith(machine)} for line in lines]
