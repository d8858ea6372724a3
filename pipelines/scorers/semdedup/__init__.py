"""SemDeDup: near-copies by meaning, within clusters of stored embeddings."""
