"""Metrics as plain functions on answers and references; nothing here reads a file or knows a model."""
