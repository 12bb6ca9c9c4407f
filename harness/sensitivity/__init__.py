"""Which layers mind being quantized: `python -m harness.sensitivity`, and the bits that follow from it."""
