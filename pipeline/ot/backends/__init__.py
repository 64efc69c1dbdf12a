"""The backends that compute a pass: torch tiles, KeOps or flash-sinkhorn, behind one protocol."""
