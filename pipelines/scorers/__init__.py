"""Scorers: one folder for each family, and the registry of all that `--scorer` can name."""
