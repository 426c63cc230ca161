"""Hugging Face model directories: the configuration, the index of tensors, the files."""
