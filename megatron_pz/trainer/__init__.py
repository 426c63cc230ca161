from megatron_pz import cpu_backend

cpu_backend.install()
