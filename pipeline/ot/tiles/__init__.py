"""The n x m kernel, which is never stored: its tiles, their logits, and the rows of one process."""
