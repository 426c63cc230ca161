"""Run ``megatron_pz.train`` with scripted engines instead of vLLM's: real updates, checkpoints and signals."""

from __future__ import annotations

import runpy

import pytest

from tests.support.scripted_run import script_engines

if __name__ == "__main__":
    script_engines(pytest.MonkeyPatch())
    runpy.run_module("megatron_pz.train", run_name="__main__", alter_sys=True)
