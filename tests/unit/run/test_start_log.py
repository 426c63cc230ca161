"""The lines of a run's start."""

from __future__ import annotations

import re

import pytest

from megatron_pz.run.start_log import StartLog


def test_every_part_of_the_start_is_one_line_of_rank_0(capsys: pytest.CaptureFixture[str]) -> None:
    log = StartLog()
    log.done(0, "4 ranks up")
    log.done(0, "weights loaded")
    log.done(1, "weights loaded")
    lines = capsys.readouterr().out.splitlines()
    seconds = [float(match[1]) for line in lines if (match := re.fullmatch(r"[\w ]+ \(([\d.]+) s\)", line))]
    assert len(seconds) == len(lines) == 2
    assert 0.1 < seconds[0] < 36000, "the first part began with the process"
    assert seconds[1] < seconds[0]
