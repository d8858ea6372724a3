"""The score store: one durable file for each finished block, compacted into one for each finished shard."""
