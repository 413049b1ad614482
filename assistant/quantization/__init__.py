"""A checkpoint whose language model has fewer bits, in the format that vLLM serves (compressed-tensors)."""
