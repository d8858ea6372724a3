"""MinHash: near-copies by words, with an exact join of band keys."""
