"""Regression on pairs: the verbs (train, evaluate, sample) and, below them, the rooms that they work on."""
