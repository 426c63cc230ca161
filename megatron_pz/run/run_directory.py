"""Write a run's configuration and a record of every start into its directory."""

from __future__ import annotations

import dataclasses
import os
import platform
from pathlib import Path
from typing import Any

import torch
import yaml

from megatron_pz.config.schema import RunConfig
from megatron_pz.monitoring.launches import Launch, record_launch
from megatron_pz.rollout.ranks.rendezvous import hosts as hosts_of_rollout_ranks
from megatron_pz.runtime.files import write_text_whole
from megatron_pz.trainer.topology import Topology

CONFIG_FILE = "config.yaml"


def describe_run(config: RunConfig, topology: Topology, iteration: int) -> None:
    """Write the configuration and the record of this start, after ``iteration`` steps. Collective.

    A resumed run prints the settings that differ from its previous start; the record has both values.
    """
    hosts = topology.all_gather_object(this_host())
    if topology.rank != 0:
        return
    hosts += hosts_of_rollout_ranks(topology.store, topology.rollout_ranks)
    folder = Path(config.training.save)
    changes = changed_settings(Path(config.training.load) / CONFIG_FILE, config) if iteration else {}
    if changes:
        listed = ", ".join(f"{name} {before!r} -> {now!r}" for name, (before, now) in changes.items())
        print(f"continues after iteration {iteration} with other settings: {listed}", flush=True)
    write_config(config, folder / CONFIG_FILE)
    device = torch.cuda.get_device_name(topology.device) if topology.device.type == "cuda" else "CPU"
    record_launch(folder, Launch.now(iteration, hosts, device, topology.data_parallel_size, changes))


def this_host() -> str:
    """Return the name of this node, from Slurm if possible: containers and virtual nodes may share a host name."""
    return os.environ.get("SLURMD_NODENAME", platform.node())


def changed_settings(path: Path, config: RunConfig) -> dict[str, tuple[Any, Any]]:
    """Return (before, now) of every setting, as ``section.field``, that differs from the file of the previous start.

    Settings that the file lacks are ignored, because another version may have written it. The result is empty if the
    file is missing or incomplete. ``load`` and ``save`` do not count as settings.
    """
    try:
        before = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    changes = {}
    for section, fields in _plain(dataclasses.asdict(config)).items():
        saved = before.get(section) if isinstance(before, dict) else None
        if not isinstance(saved, dict):
            continue
        for field, value in fields.items():
            if field in saved and saved[field] != value and field not in ("load", "save"):
                changes[f"{section}.{field}"] = (saved[field], value)
    return changes


def write_config(config: RunConfig, path: Path) -> None:
    """Write the resolved configuration as a YAML file that ``--config`` reads."""
    write_text_whole(path, yaml.safe_dump(_plain(dataclasses.asdict(config)), sort_keys=False))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return list(value) if isinstance(value, tuple) else value
