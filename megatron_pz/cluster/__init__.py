"""Jobs on one or many nodes: their settings, checks before they start, the launcher and its workers."""
