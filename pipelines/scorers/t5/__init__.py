"""Scorers that run a T5 over texts: Ask-LLM, perplexity, and Sentence-T5, which embeds."""
