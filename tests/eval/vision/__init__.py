"""Tests of the figures of eyes without a language model."""
