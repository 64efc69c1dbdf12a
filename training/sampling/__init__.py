"""From a trained network to samples: flows, ODE and SDE solvers."""
