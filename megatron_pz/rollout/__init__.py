"""Sample rollouts with vLLM and keep its weights in sync with the trainer's."""
