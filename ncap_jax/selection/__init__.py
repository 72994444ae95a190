"""From trajectories to a ranking with uncertainty; ranking metrics."""
