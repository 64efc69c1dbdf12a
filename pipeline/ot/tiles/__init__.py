"""The n x m kernel that is never stored: its tiles, their logits, and the rows of one process."""
