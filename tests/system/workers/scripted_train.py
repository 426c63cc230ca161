"""Run ``megatron_pz.train`` with scripted engines instead of vLLM's: real updates, checkpoints and signals.

A step takes at least STEP_SECONDS, so that a signal can arrive between two steps on a busy machine.
"""

from __future__ import annotations

import os
import runpy
import time

import pytest

from tests.support.scripted_run import ScriptedEngine, script_engines

if __name__ == "__main__":
    patch, fall_asleep = pytest.MonkeyPatch(), ScriptedEngine.sleep
    script_engines(patch)

    def sleep(engine: ScriptedEngine) -> None:
        time.sleep(float(os.environ.get("STEP_SECONDS", "0")))
        fall_asleep(engine)

    patch.setattr(ScriptedEngine, "sleep", sleep)
    runpy.run_module("megatron_pz.train", run_name="__main__", alter_sys=True)
