"""Scoring: blocks in, scores on record. It is common to all scorers, and knows none of them."""
