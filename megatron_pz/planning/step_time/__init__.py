"""Simulate the time of a step: rollouts sequence by sequence, the update, and the weights' way to the engines.

What is not simulated: dynamic sampling's further draws, speculative decoding, passages scored for entropies,
evaluations, checkpoints, other jobs on the network, and GPUs or links that are slower than their like. Two policies
(``policy_sharing separate``) are timed as one of the same size.
"""
