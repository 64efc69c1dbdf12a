"""Training objectives: probability paths, and the velocities, scores and average velocities regressed on them."""

from flowpairs.training.objectives.objective import Objective, Sample, build_network, build_objective, try_own_classes

__all__ = ["Objective", "Sample", "build_network", "build_objective", "try_own_classes"]
