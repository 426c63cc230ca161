"""One step of reinforcement learning by this project and by TRL, each in a process of its own, on the same work."""
