"""The form that a GPU runs, compiled by torch.compile: on a CPU it makes C++ of the same graph."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest
import torch

from tests.support.torchrun import ROOT

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler, there is none")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the directory of compiled code, which compiles anew at the first use of each dtype."""
    return str(tmp_path_factory.mktemp("compiled"))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_compiled_steps_equal_the_eager_ones_for_any_number_of_rows(dtype: str, cache: str) -> None:
    compare(dtype, TORCHINDUCTOR_CACHE_DIR=cache)


@pytest.mark.skipif(torch.backends.cpu.get_cpu_capability() != "AVX512", reason="one instruction set, not two")
def test_what_was_compiled_for_other_vectors_is_not_used(cache: str) -> None:
    compare("float32", TORCHINDUCTOR_CACHE_DIR=cache)
    compare("float32", TORCHINDUCTOR_CACHE_DIR=cache, ATEN_CPU_CAPABILITY="avx2")


def compare(dtype: str, **variables: str) -> None:
    """Run the comparison in a separate process, because the compiler forks and leaves loaded libraries."""
    command = [sys.executable, "-X", "faulthandler", "-m", "tests.system.workers.compiled_logit_chunk", dtype]
    compared = subprocess.run(
        command, cwd=ROOT, env=os.environ | variables, capture_output=True, text=True, check=False
    )
    assert compared.returncode == 0, compared.stderr
