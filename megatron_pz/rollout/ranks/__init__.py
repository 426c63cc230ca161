"""Rollout engines on dedicated ranks (``--rollout-ranks``), and their communication with the trainer's rank 0."""
