"""Wikitext to plain text: the scanner, templates and localization."""
