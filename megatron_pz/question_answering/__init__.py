"""Benchmark questions without an engine: files, prompts, reading of answers, grading, and scores."""
