"""The content of blocks: the division of a job, its two sides, their features, noise and conditions."""
