"""Regression on pairs: paths, models, loader, loop, ODE sampling, metrics; knows the store, not how pairs were made."""
