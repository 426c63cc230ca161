"""PretrainZero on Megatron-Core: reinforcement active pretraining from a raw Wikipedia dump."""

__version__ = "0.2.0.dev0"
