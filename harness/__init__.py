"""The harness: what to run, where, and what came out."""
