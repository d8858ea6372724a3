"""What a T5 says of texts: Ask-LLM, perplexity, embeddings."""
