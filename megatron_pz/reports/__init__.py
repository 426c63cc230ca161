"""What is made after a run: tables, curves, the scaling study and the page of a corpus."""
