"""Drawing partners from a coupling: by the inverse distribution function, or every datum equally often."""
