"""The backends that compute a pass: torch tiles or KeOps, behind one protocol."""
