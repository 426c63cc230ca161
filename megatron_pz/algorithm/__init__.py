"""The PretrainZero algorithm: rollouts of both roles, rewards, advantages and the policy update of each step."""
