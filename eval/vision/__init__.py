"""Eyes without the language model, measured: the detector, and what else the frozen tower's patches can do."""
