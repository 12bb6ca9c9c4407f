"""Hyper-parameter search: `python -m harness.search`."""
