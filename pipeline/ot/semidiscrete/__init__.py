"""Couplings of a source without end with N data: potentials by rounds of points, and exact assignment."""
