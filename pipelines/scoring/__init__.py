"""Blocks in, scores on record: what all scorers have in common, without a word about any of them."""
