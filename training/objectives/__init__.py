"""Training objectives: probability paths, and the velocities, scores and average velocities regressed on them."""

from flowpairs.training.objectives.objective import Objective, build_network, build_objective, try_network

__all__ = ["Objective", "build_network", "build_objective", "try_network"]
