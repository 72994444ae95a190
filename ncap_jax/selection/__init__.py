"""From predictions to a ranking."""
