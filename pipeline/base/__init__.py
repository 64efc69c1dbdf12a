"""What everything stands on: errors, progress, paths and URLs, atomic files, .npy bytes and tars that others wrote."""
