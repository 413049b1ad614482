"""Faults at random: `python -m tests.chaos --minutes 30 --seed 1 --out out/chaos`, or `make chaos MINUTES=30`."""
