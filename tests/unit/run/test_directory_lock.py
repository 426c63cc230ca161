"""An output directory belongs to one run."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch.distributed as dist

from megatron_pz.run.directory_lock import claim_run_directory
from megatron_pz.runtime.errors import BadInput


@pytest.fixture
def group() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("group")
def test_a_new_or_empty_folder_is_taken(tmp_path: Path) -> None:
    claim_run_directory(tmp_path / "deep" / "new", "").release()
    claim_run_directory(tmp_path / "deep" / "new", "").release()  # only the lock is in it
    claim_run_directory(tmp_path / "resumed", tmp_path / "elsewhere").release()


@pytest.mark.usefixtures("group")
def test_a_run_is_not_written_over_but_may_go_on(tmp_path: Path) -> None:
    (tmp_path / "latest_checkpointed_iteration.txt").write_text("10\n")
    for load in ("", tmp_path.parent):
        with pytest.raises(BadInput, match=f"^--save {tmp_path} is not empty .*latest_.* --load {tmp_path}$"):
            claim_run_directory(tmp_path, load)
    same = tmp_path / "iter_0000010" / ".."
    (tmp_path / "iter_0000010").mkdir()
    claim_run_directory(tmp_path, same).release()


@pytest.mark.usefixtures("group")
def test_two_living_runs_do_not_share_a_folder(tmp_path: Path) -> None:
    first = claim_run_directory(tmp_path, "")
    with pytest.raises(BadInput, match=f"in use by a run that is still alive .process {os.getpid()} on "):
        claim_run_directory(tmp_path, tmp_path)
    first.release()
    claim_run_directory(tmp_path, tmp_path).release()


@pytest.mark.usefixtures("group")
def test_the_lock_goes_with_a_killed_run(tmp_path: Path) -> None:
    hold = "import fcntl, os, sys; fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT); fcntl.flock(fd, fcntl.LOCK_EX)"
    other = subprocess.Popen(
        [sys.executable, "-S", "-c", f"{hold}; print('held', flush=True); sys.stdin.read()", tmp_path / ".lock"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert other.stdout.readline() == b"held\n"
    with pytest.raises(BadInput, match="still alive"):
        claim_run_directory(tmp_path, "")
    other.kill()
    other.communicate()
    claim_run_directory(tmp_path, "").release()


@pytest.mark.usefixtures("group")
@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK])
def test_a_file_system_without_locks_is_told_and_used(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Many sites mount Lustre without locks."""

    def flock(descriptor: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", flock)
    claim_run_directory(tmp_path, "").release()
    assert "is on a file system without locks" in capsys.readouterr().err
    (tmp_path / "metrics.jsonl").touch()
    with pytest.raises(BadInput, match="is not empty"):
        claim_run_directory(tmp_path, "")


@pytest.mark.usefixtures("group")
def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="cannot be used as an output directory"):
        claim_run_directory(tmp_path / "file" / "run", "")
