"""Does learning from corrections help, and does it harm? The gate before an adapter is served, and the benchmark."""
