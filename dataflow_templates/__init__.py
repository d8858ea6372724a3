"""Flex Templates of Dataflow: one folder each, and the image that they and their workers run in."""
