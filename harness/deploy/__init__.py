"""Quantized models as files that others run: formats, and the runtimes that check and time them."""
