"""Studies: each a main with its own flags, its command and its expected result."""
