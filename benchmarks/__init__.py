"""What speed claims are measured with: `python -m benchmarks.NAME` prints a table, writes JSON."""
