"""A large problem as many small ones: both sides are cut into regions, and each region is coupled apart."""
