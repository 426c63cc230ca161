"""Sizes from the models' config.json on the Hugging Face hub, and the parameters that their safetensors hold."""

from __future__ import annotations

import json
from pathlib import Path

from megatron_pz.hf.architecture import Architecture

PUBLISHED = json.loads((Path(__file__).resolve().parents[1] / "fixtures/published_models.json").read_text())


def architecture(name: str, folder: Path) -> Architecture:
    """Write the config.json of a published model into ``folder``, and read it."""
    (folder / "config.json").write_text(json.dumps(PUBLISHED[name]["config"]))
    return Architecture.from_hf(folder)
