"""Couplings as a batch job: the verbs couple, plan, convert and recompute; the folders below hold what they work on."""
