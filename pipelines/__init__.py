"""Beam pipelines around `curation`: readers, transforms, stores, writers, commands."""

from pipelines.worker import homes

# Before anything is imported that looks for its cache at once; in workers too, which import this first.
homes.provide()
