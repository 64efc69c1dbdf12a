"""Reading stored pairs: the order of an epoch, shards as they come, shuffling, and batches made ahead."""
