"""Reports on finished runs and corpora: tables, curves, the scaling study and the page of a corpus."""
