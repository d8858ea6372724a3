"""Flex Templates for Dataflow, one folder each, and the image that templates and workers run in."""
