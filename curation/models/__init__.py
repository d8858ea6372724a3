"""T5 in JAX: arithmetic, batching, vocabulary, checkpoints and training steps."""
