"""Scores and embeddings of texts by a T5: Ask-LLM, perplexity and Sentence-T5."""
