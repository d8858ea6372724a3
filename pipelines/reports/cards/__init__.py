"""The dataset card of outputs, and its figures."""
