"""Thin entry points, one module per command; `flowpairs couple` and `python -m jobs.couple` reach the same code.

remote/ is what `submit`, `jobs` and `stop` share.
"""
