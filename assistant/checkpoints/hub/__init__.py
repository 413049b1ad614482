"""Checkpoints of the Hugging Face Hub: downloaded into its cache, and pushed with a model card."""
