"""A training run: the loop, its state and checkpoints, its directory, its log, and the workers that it runs on."""
