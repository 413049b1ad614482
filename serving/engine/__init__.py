"""The local engine: scheduler, KV cache, decoding."""
