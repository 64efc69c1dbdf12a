"""Entropic couplings of two finite sets: passes over the kernel, and the stand-in that makes them few."""
