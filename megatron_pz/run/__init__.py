"""A run from its configuration to its end: inputs, output directory, signals, the loop."""
