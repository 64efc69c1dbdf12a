"""Couplings that take no passes: the exact one of a small block, and the independent one."""
