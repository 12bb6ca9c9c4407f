"""Quantizers: small modules that round to a grid, one file per grid, and how ranges are found."""
