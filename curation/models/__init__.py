"""T5 in JAX: its arithmetic, its batches, its vocabulary, and the checkpoints that it is read from."""
