"""What things cost: `python -m harness.perf`."""
