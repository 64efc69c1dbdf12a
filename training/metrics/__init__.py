"""What says how good samples are: Frechet distances, curvature, Wasserstein distances per time point."""
