"""flowpairs: optimal-transport pairs for flow matching."""

__version__ = "0.1.0"
