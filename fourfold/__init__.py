"""Fourfold: a chat assistant that sees."""

import os

# onnxruntime's wheels for Linux report what they are used for to their maker, from its import on.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
