"""The one trainer: for the default model, and for refinement."""
