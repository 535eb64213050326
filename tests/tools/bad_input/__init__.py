"""Hostile values for every public parameter, and one judge of what comes back."""
