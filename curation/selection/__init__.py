"""Exact selection of documents, independent of the order in which they are read, and measures of scores."""
