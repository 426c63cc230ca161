"""Checkpoints of a run: Megatron-Core's distributed format, random number generators, NeMo exchange."""

from megatron_pz.runtime import cpu_backend

cpu_backend.install()
