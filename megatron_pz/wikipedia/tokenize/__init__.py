"""Turn articles into passages and token ids."""
