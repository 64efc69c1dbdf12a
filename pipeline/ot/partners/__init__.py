"""Partners drawn from a coupling: by the inverse distribution function, or with every datum used equally often."""
