"""Pre-training of T5 on samples that Winnow selected: seqio tasks, T5X's settings, and epochs per sample."""
