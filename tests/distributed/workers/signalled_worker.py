"""Run without results: report progress, wait for a stop request, agree on it with all ranks, and end."""

from __future__ import annotations

import os
import time
from pathlib import Path
from types import SimpleNamespace

import torch
import torch.distributed as dist

from megatron_pz.run.signals import StopRequest


def any_rank(flag: bool) -> bool:
    votes = torch.tensor([int(flag)])
    dist.all_reduce(votes)
    return bool(votes.item())


def main() -> None:
    dist.init_process_group("gloo")
    folder = Path(os.environ["SIGNALLED_FOLDER"])
    with StopRequest() as stop:
        (folder / f"ready_{dist.get_rank()}").touch()
        while not stop.requested(SimpleNamespace(any_rank=any_rank)):  # type: ignore[arg-type]
            time.sleep(0.02)
    name = stop.signal.name if stop.signal else "the others' word"
    (folder / f"stopped_{dist.get_rank()}").write_text(name)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
