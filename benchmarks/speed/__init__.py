"""What `python -m benchmarks` measures: the engine, its servers and their peers, beside what the machine could do."""
