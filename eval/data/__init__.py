"""A benchmark's data where it lies: a local copy of a Hugging Face data set, a VLMEvalKit TSV, the official files."""
