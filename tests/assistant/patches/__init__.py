"""Tests of what the patches of the tower can do."""
