"""The command line, a file a verb; it puts the rooms together, and nobody imports it."""
