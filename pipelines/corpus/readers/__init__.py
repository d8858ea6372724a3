"""Readers of shards: one for each file format."""
