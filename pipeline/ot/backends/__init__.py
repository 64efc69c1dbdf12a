"""What computes a pass: torch tiles, KeOps or flash-sinkhorn, behind one protocol."""
