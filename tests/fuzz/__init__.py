"""Hostile input by the million: `make fuzz` for minutes or hours, and a short slice of it among the unit tests."""
