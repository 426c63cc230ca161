"""Examine this machine, the installed software and a configuration, without importing what may crash."""
