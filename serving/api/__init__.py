"""The HTTP endpoint of the local engine."""
