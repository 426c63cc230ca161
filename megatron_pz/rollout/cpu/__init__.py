"""Code that only vLLM's CPU build needs."""
