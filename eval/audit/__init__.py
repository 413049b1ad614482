"""Other people's results: logs read, scored again under every rule, and held against the number that was reported."""
