"""Couplings whose marginals may be missed at a price: unbalanced and semi-relaxed."""
