"""The common ground: errors, progress, paths and URLs, atomic files, .npy bytes, and tars that others wrote."""
