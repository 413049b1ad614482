"""vLLM as the engine: its launch, its plugin, the gate before it."""
