"""Settings of T5X as gin files, which gin finds by the package's name, wherever it is installed."""
