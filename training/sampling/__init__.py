"""Sampling from a trained network: its flow, ODE and SDE solvers, and the curvature of trajectories."""
