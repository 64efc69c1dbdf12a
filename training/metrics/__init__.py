"""Measures of sample quality: Frechet distances, their feature networks, Wasserstein distances per time point."""
