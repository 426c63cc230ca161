"""End a worker as its arguments specify by rank: a code, ``kill``, ``hang``, or ``import`` for slow imports.

With ``kill in service`` and ``75 in service`` it ends so the first time, and the second time with 0.

It does not import torch, so that a test of the launcher takes no longer than the launcher.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from megatron_pz.run.signals import StopRequest
from megatron_pz.runtime.errors import BadInput, exits_with_one_line
from megatron_pz.runtime.replacement import declare_replaceable


@exits_with_one_line
def main() -> None:
    rank, folder = int(os.environ["RANK"]), Path(os.environ["ENDING_FOLDER"])
    (folder / f"process_{rank}").write_text(str(os.getpid()))
    ending, _, service = sys.argv[1:][rank].partition(" in ")
    if service:
        if (folder / "served").exists():
            raise SystemExit(0)
        (folder / "served").touch()
        declare_replaceable()
    if ending == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif ending == "hang":
        time.sleep(600)
    elif ending == "import":
        while not (folder / "imported").exists():
            time.sleep(0.02)
        with StopRequest() as stop:  # a signal during the imports is delivered now
            raise SystemExit(3 if stop.signal is signal.SIGUSR1 else 1)
    elif ending == "2":
        raise BadInput("--data-path x: no such file")
    raise SystemExit(int(ending))


if __name__ == "__main__":
    main()
