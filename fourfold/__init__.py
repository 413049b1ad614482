"""The command line, a file a verb; nobody imports it."""
