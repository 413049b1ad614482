"""Learning from corrections: records, memory, adapters and their registry."""
