"""Serving: the local engine, its HTTP endpoint, and vLLM."""
