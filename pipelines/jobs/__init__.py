"""Jobs: planned from flags, and run as one pipeline."""
