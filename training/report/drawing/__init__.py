"""The figures and pictures of the page."""
