"""One reader for each format of shards."""
