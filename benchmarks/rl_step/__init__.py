"""Compare one step of reinforcement learning by this project and by TRL, in separate processes on the same work."""
