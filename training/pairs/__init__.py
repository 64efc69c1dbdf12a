"""Pairs for a training loop: exact epochs of stored pairs, or fresh noise with data assigned online."""
