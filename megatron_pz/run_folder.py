"""What a run's folder says about the run: its configuration, and every start of it."""

from __future__ import annotations

import dataclasses
import platform
from pathlib import Path
from typing import Any

import torch
import yaml

from megatron_pz.config import RunConfig
from megatron_pz.monitoring.launches import Launch, record_launch
from megatron_pz.trainer.topology import Topology


def describe_run(config: RunConfig, topology: Topology, iteration: int) -> None:
    """Keep in the run's folder what it is started with, after ``iteration`` steps, and by whom. Collective."""
    hosts = topology.all_gather_object(platform.node())
    if topology.rank == 0:
        folder = Path(config.training.save)
        write_config(config, folder / "config.yaml")
        device = torch.cuda.get_device_name(topology.device) if topology.device.type == "cuda" else "CPU"
        record_launch(folder, Launch.now(iteration, hosts, device, topology.data_parallel_size))


def write_config(config: RunConfig, path: Path) -> None:
    """The resolved configuration as a YAML file that ``--config`` reads."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        return list(value) if isinstance(value, tuple) else value

    path.write_text(yaml.safe_dump(plain(dataclasses.asdict(config)), sort_keys=False), encoding="utf-8")
