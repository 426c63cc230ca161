from megatron_pz.runtime import cpu_backend

cpu_backend.install()
