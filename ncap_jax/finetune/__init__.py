"""Fine-tuning: from a model and data to a trajectory."""
