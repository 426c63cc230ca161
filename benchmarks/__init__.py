"""Benchmark scripts, and under ``results/`` their results with date, hardware, versions and commit."""
