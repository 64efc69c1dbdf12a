"""Reading of stored pairs: the order of an epoch, sources of shards, shuffling, and batches read ahead."""
