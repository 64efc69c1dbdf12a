"""One training run: the loop, its state and checkpoints, its directory and its log."""
