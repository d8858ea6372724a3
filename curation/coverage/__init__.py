"""What embeddings and signatures say of a corpus: density, clusters, near-copies."""
