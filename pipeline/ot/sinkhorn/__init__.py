"""Entropic couplings of two finite sets: passes over the kernel, and the surrogate that makes them few."""
