"""Regression on pairs: the verbs (train.py, evaluate.py, sample.py) and the packages that they use."""
