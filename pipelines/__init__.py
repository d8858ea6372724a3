"""Beam pipelines around `curation`: readers, transforms, stores, writers, commands."""
