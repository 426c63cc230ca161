"""What the scanner's interpreted form needs of the module ``cython``, where that is not installed."""

compiled = False
