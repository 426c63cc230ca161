"""Read the content of the page of runs from its HTML."""

from __future__ import annotations

import base64
import json
import re
import zlib
from pathlib import Path
from typing import Any

import pytest

from tools import report


def blob(page: Path, name: str) -> str:
    (found,) = re.findall(rf'id="{name}">([^<]*)</script>', page.read_text(encoding="utf-8"))
    return found


def unpack(text: str) -> Any:
    return json.loads(zlib.decompress(base64.b64decode(text)))


def refused(capsys: pytest.CaptureFixture[str], *flags: object) -> str:
    with pytest.raises(SystemExit) as stop:
        report.main([str(flag) for flag in flags])
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line
