"""Fourfold: a chat assistant that sees."""

import os

# onnxruntime's wheels for Linux report what they are used for to their maker, from its import on.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

# numpy's products here are small. OpenBLAS would share them out to threads that wait for each other by spinning: beside
# another program that takes 30 ms instead of 0.1, and sums come out differently with the number of cores. Where torch
# multiplies by OpenBLAS too, it keeps its threads.
if hasattr(os, "uname") and os.uname().machine == "x86_64":
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
