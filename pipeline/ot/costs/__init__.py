"""Costs between features: named ones, a user's own, and geodesic distances on a neighbour graph."""
