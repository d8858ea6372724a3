"""What `--scorer` can name: one folder for each family of scorers."""
