"""Simulate the time of a step: rollouts sequence by sequence, the update, and the weight sync.

Not simulated are dynamic sampling's further draws, speculative decoding, passages scored for entropies, evaluations,
checkpoints, other jobs on the network, and GPUs or links that are slower than the others. Two policies
(``policy_sharing separate``) are timed as one of the same size.
"""
