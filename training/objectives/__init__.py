"""What is regressed on: probability paths, velocities, scores and average velocities."""

from flowpairs.training.objectives.objective import Objective, build_network, build_objective

__all__ = ["Objective", "build_network", "build_objective"]
