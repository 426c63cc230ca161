"""Scripts that measure, and under ``results/`` what they measured: dated, with hardware, versions and commit."""
