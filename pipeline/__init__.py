"""Couplings as a batch job: the verbs (couple, plan, convert, recompute), and below them the rooms they work on."""
