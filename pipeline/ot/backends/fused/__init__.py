"""Passes by kernels in Triton that keep every entry on the chip."""
