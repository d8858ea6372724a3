"""Beam pipelines around `curation`: readers, transforms, stores, writers, commands."""

from pipelines.worker import homes

# Some imports look for their caches at once, so this comes first; in workers too, which import this package first.
homes.provide()
