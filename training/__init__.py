"""Regression on pairs: paths, models, loader, loop, ODE sampling, metrics. Knows the pair store's format, not how pairs were made."""
