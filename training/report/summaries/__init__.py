"""What the page shows, read from the files of pair stores and training runs."""
