"""The solution of one block or one semi-discrete problem, from features to pairs, in one process and without Ray."""
