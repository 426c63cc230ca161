"""Replace the module ``cython`` for the interpreted scanner if it is not installed."""

compiled = False
