"""Stand-in for the module ``cython`` where that is not installed, for the interpreted scanner."""

compiled = False
