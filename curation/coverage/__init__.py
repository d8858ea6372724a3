"""Coverage of a corpus by embeddings and signatures: density, clusters and near-copies."""
