"""Putting what was measured side by side: runs of benchmarks, the card, and the gate before a promotion."""
