"""Shards and blocks: what a corpus is read as, with borders of blocks that depend on the files alone."""
