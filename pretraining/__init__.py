"""Pre-training of T5 on what was selected: seqio tasks, T5X's settings, and how many epochs a sample makes."""
