"""Evaluation by a run's engines: between the steps of training, and of saved models one after another."""
