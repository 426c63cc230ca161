"""The message and exit code of a command that cannot continue."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import pytest

from megatron_pz.config.command_line import Parser
from megatron_pz.runtime.errors import BadInput, brief, exits_with_one_line, one_line


@pytest.mark.parametrize(
    ("failure", "code", "words"),
    [
        (BadInput("two\n  lines"), 2, "error: two lines"),
        (OSError(errno.ENOSPC, "No space left on device", "/data/a.bin"), 1, "no room for /data/a.bin: No space left"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), 1, "no room: Disk quota exceeded; make room"),
        (PermissionError(errno.EACCES, "Permission denied", "/data/a"), 2, "error: /data/a: Permission denied"),
        (OSError(errno.EROFS, "Read-only file system", "/run/.lock"), 2, "error: /run/.lock: Read-only file system"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "x" * 300), 2, "x: File name too long"),
        (KeyboardInterrupt(), 130, "error: interrupted"),
    ],
)
def test_an_expected_failure_is_one_line(
    failure: BaseException, code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    @exits_with_one_line
    def main() -> None:
        raise failure

    with pytest.raises(SystemExit) as stop:
        main()
    (line,) = capsys.readouterr().err.splitlines()
    assert stop.value.code == code
    assert words in line


def test_help_tells_defaults_that_are_values(capsys: pytest.CaptureFixture[str]) -> None:
    parser = Parser("Do something.")
    parser.add_argument("--count", type=int, default=3, help="of things")
    parser.add_argument("--name", required=True, help="of the thing")
    parser.add_argument("--loud", action="store_true", help="say more")
    with pytest.raises(SystemExit):
        parser.parse_args(["--help"])
    help_text = capsys.readouterr().out
    assert "of things (default: 3)" in help_text
    assert "None" not in help_text
    assert "False" not in help_text


def test_only_the_first_rank_of_a_node_speaks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @exits_with_one_line
    def main() -> None:
        raise BadInput("no")

    monkeypatch.setenv("LOCAL_RANK", "3")
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    assert capsys.readouterr().err == ""


def test_torchrun_is_told_what_it_shows_last(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The file is read as torchrun does, so that its summary ends in the reason instead of a hint on tracebacks."""
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

    @exits_with_one_line
    def main() -> None:
        raise BadInput("no\nroom")

    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "error.json"))
    with pytest.raises(SystemExit):
        main()
    assert ProcessFailure(0, 1, 2, str(tmp_path / "error.json")).message == "error: no room"
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", "/nowhere/error.json")
    with pytest.raises(SystemExit):
        main()


@pytest.mark.parametrize("unbuffered", [True, False])
def test_a_reader_that_has_seen_enough_ends_a_command_without_a_word(unbuffered: bool) -> None:
    code = "from megatron_pz.runtime.errors import exits_with_one_line\n@exits_with_one_line\ndef main():\n"
    code += "    for number in range(200_000):\n        print(number)\nmain()"
    command = [sys.executable, *(["-u"] if unbuffered else []), "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "0\n"
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(timeout=30) == 141


def test_a_broken_pipe_of_another_kind_keeps_its_traceback() -> None:
    @exits_with_one_line
    def main() -> None:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    with pytest.raises(BrokenPipeError):
        main()


def test_other_failures_keep_their_traceback() -> None:
    @exits_with_one_line
    def main() -> None:
        raise OSError(errno.EIO, "Input/output error")

    with pytest.raises(OSError, match="Input/output"):
        main()


def test_a_message_for_a_line() -> None:
    assert one_line(ValueError("two\n  lines")) == brief(ValueError("two\n  lines")) == "two lines"
    assert one_line(KeyError()) == brief(KeyError()) == "KeyError"
    long = ValueError("word " * 100)
    assert one_line(long) == ("word " * 100).strip()
    assert brief(long, 7) == "word wo…"
