"""The density of embeddings, by one RACE sketch of a whole store."""
