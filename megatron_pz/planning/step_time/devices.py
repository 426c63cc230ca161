"""List peak speeds of GPUs by name, from their makers' data sheets. Every GPU has one port of the node's network."""

from __future__ import annotations

from dataclasses import dataclass

from megatron_pz.runtime.errors import BadInput

TERA, GIGA = 1e12, 1e9


@dataclass(frozen=True)
class Device:
    """The peak rates of one device. Rates of links are for one direction."""

    name: str
    flops: float
    """Floating point operations per second of dense bfloat16 matrix products, without sparsity."""
    bandwidth: float
    """Bytes per second of the device's memory."""
    memory_gib: float
    """GiB as CUDA reports them, approximately."""
    peer_link: float
    """Bytes per second to the other devices of the node."""
    node_link: float
    """Bytes per second to other nodes, with the maker's reference network."""
    host_link: float
    """Bytes per second to the node's own memory."""
    source: str


_H100_NETWORK = "400 Gb/s a GPU (DGX H100 data sheet)"
DEVICES = {
    device.name: device
    for device in (
        Device(
            "H100", 989.4 * TERA, 3.35 * TERA, 80, 450 * GIGA, 50 * GIGA, 64 * GIGA,
            f"H100 SXM5: NVIDIA H100 data sheet (sparse figures halved); {_H100_NETWORK}",
        ),
        Device(
            "H200", 989.4 * TERA, 4.8 * TERA, 140, 450 * GIGA, 50 * GIGA, 64 * GIGA,
            f"H200 SXM: NVIDIA H200 data sheet (sparse figures halved); {_H100_NETWORK}",
        ),
        Device(
            "B200", 2250 * TERA, 7.7 * TERA, 178, 900 * GIGA, 50 * GIGA, 64 * GIGA,
            "NVIDIA DGX B200 data sheet, an eighth of the system (sparse figures halved)",
        ),
        Device(
            "A100", 312 * TERA, 2.039 * TERA, 80, 300 * GIGA, 25 * GIGA, 32 * GIGA,
            "A100 80 GB SXM: NVIDIA A100 data sheet; 200 Gb/s a GPU (DGX A100 data sheet)",
        ),
        Device(
            "A100-40GB", 312 * TERA, 1.555 * TERA, 40, 300 * GIGA, 25 * GIGA, 32 * GIGA,
            "A100 40 GB SXM: NVIDIA A100 data sheet; 200 Gb/s a GPU (DGX A100 data sheet)",
        ),
        Device(
            "L40S", 362 * TERA, 0.864 * TERA, 47, 32 * GIGA, 25 * GIGA, 32 * GIGA,
            "NVIDIA L40S data sheet (sparse figures halved); no NVLink; 200 Gb/s a GPU assumed",
        ),
        Device(
            "CPU", 0.15 * TERA, 15 * GIGA, 8, 10 * GIGA, 3 * GIGA, 10 * GIGA,
            "one core with AVX-512 bfloat16; orders of magnitude, to be corrected by --calibrate; a network of 25 Gb/s",
        ),
    )
}  # fmt: skip
"""Devices by name, in the order in which messages list them."""


def find_device(name: str) -> Device:
    """Return the device of this name, ignoring case.

    Raises:
        BadInput: the device is not in the table.
    """
    for device in DEVICES.values():
        if device.name.casefold() == name.casefold():
            return device
    raise BadInput(f"--gpu {name}: unknown; known are {', '.join(DEVICES)}")
