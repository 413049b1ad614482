"""Fourfold: a chat assistant that sees."""
