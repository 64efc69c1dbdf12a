"""Thin entry points, one module per command; `flowpairs couple` and `python -m jobs.couple` run the same code.

public/ is the package `flowpairs` itself. remote/ is shared by `submit`, `jobs` and `stop`; _stream_job.py and
_children.py run the two jobs of `stream`.
"""
