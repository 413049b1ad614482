"""The server under load for hours: `python -m tests.serving.soak --hours 1 --out out/soak`, or `make soak HOURS=1`."""
