"""What the paper says, as pure functions on arrays: NumPy and JAX, never Beam."""
