"""Read and write Hugging Face model directories: the configuration, the tensors, the other files."""
