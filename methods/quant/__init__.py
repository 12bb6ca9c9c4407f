"""Simulated quantization of stock timm transformers: bits, quantizers, layers, the swap, calibration."""
