"""k-means over stored embeddings, and SSL prototypes by the distance to the centroid."""
