"""Checkpoints: the default model put together from public weights, and the original release converted."""
