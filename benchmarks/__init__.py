"""What is measured against what; writes JSON with the environment beside it."""
