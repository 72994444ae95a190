"""Sources, label checks and batching."""
