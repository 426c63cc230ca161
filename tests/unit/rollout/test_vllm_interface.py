"""The report of ``tests/vllm_interface.py`` on the installed vLLM, and on one with a missing name."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from tests.vllm_interface import Sources, faults


class Without(Sources):
    """The installed sources with one name replaced in a file, or in all files of a folder."""

    def __init__(self, folder: Path, path: str, name: str) -> None:
        super().__init__(folder)
        self.path, self.name = path, name

    def text(self, path: str) -> str:
        text = super().text(path)
        return text.replace(self.name, "renamed") if path.startswith(self.path) else text


@pytest.fixture(scope="module")
def site() -> Path:
    spec = importlib.util.find_spec("vllm")
    if spec is None or spec.origin is None:
        pytest.skip("vLLM is not installed")
    return Path(spec.origin).parents[1]


def test_the_installed_release_has_everything(site: Path) -> None:
    assert list(faults(Sources(site))) == []


@pytest.mark.parametrize(
    ("path", "name", "fault"),
    [
        ("vllm/entrypoints/llm.py", "tags", "LLM.wake_up has no argument tags"),
        ("vllm/entrypoints/", "apply_model", "LLM.apply_model is absent"),
        ("vllm/v1/engine/llm_engine.py", "has_unfinished_requests", "llm_engine.has_unfinished_requests is in none of"),
        ("vllm/outputs.py", "finish_reason", "CompletionOutput has no finish_reason"),
        ("vllm/outputs.py", "prompt_logprobs", "RequestOutput has no prompt_logprobs"),
        ("vllm/sampling_params.py", "flat_logprobs", "SamplingParams has no field flat_logprobs"),
        ("vllm/engine/arg_utils.py", "max_num_seqs", "neither LLM nor EngineArgs has the argument max_num_seqs"),
        ("vllm/v1/worker/gpu_model_runner.py", "weights_iterator", "model runner V1 has no reload_weights"),
        ("vllm/distributed/", "get_tp_group", "engine.py imports get_tp_group"),
        ("vllm/envs.py", "VLLM_NO_USAGE_STATS", "does not know VLLM_NO_USAGE_STATS"),
    ],
)
def test_what_is_gone_is_named(path: str, name: str, fault: str, site: Path) -> None:
    found = list(faults(Without(site, path, name)))
    assert len(found) == 1
    assert fault in found[0]
