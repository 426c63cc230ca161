"""Decide which articles and passages are kept: language, length, duplicates, contamination."""
