"""Estimate what a run needs before it is started."""
