"""Train a policy with Megatron-Core: topology, policy, optimizer."""

from megatron_pz.runtime import cpu_backend

cpu_backend.install()
