"""What is asked of a model: a benchmark, before and after an object is gone, in conversation, on held-out images."""
