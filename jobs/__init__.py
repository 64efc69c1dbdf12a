"""Thin entry points, one module per command; `flowpairs couple` and `python -m jobs.couple` reach the same code.

remote/ is what `submit`, `jobs` and `stop` share, _stream_job.py and _children.py are how `stream` runs two of them.
"""
