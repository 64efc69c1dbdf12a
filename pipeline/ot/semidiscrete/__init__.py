"""Couplings of an infinite source with N data: potentials by rounds of points, and exact assignment."""
