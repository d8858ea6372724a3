"""Settings of T5X as gin files: gin finds them by the package's name, wherever it is installed."""
