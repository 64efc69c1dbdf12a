"""One block, or one semi-discrete problem, from features to pairs, in one process; no Ray."""
