"""PretrainZero itself: rollouts of both roles, rewards, advantages, one update a step."""
