"""Students of a rater: how they are made of the stores of scores and embeddings, and the scorer that asks them."""
