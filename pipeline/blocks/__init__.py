"""Which rows meet in which block: the division of a job, both sides, their features, noise and conditions."""
