"""The form that a GPU runs, compiled by torch.compile: on a CPU it makes C++ of the same graph."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

from tests.support.torchrun import ROOT

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler, there is none")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_compiled_steps_equal_the_eager_ones_for_any_number_of_rows(dtype: str) -> None:
    """In a process of its own: the compiler forks, and what it loads into a process stays there."""
    command = [sys.executable, "-X", "faulthandler", "-m", "tests.system.workers.compiled_logit_chunk", dtype]
    compared = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert compared.returncode == 0, compared.stderr
