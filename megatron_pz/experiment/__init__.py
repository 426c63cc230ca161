"""Experiments: a grid of runs, its progress on disk, and the comparison of its arms."""
