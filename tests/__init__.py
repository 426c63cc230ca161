"""Tests: ``unit/`` starts no process, ``distributed/`` runs torchrun on gloo, ``system/`` needs vLLM or a whole run."""
