"""From a trajectory to the accuracy at convergence."""
