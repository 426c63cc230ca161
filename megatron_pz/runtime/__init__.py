"""Process-level support: error messages, the watchdog, Megatron-Core on a CPU."""
