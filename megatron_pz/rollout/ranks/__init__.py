"""Engines on ranks of their own (``--rollout-ranks``): how the trainer's rank 0 and these ranks talk."""
