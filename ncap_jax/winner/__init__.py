"""The winner: finished, tested, and handed over as a package."""
