"""Reports on finished runs and corpora: tables, curves, scaling studies and HTML pages."""
