"""The registry of scorers: a new one is a file or a folder, and a line here, or in the entry points of a package."""

import dataclasses

from pipelines.registry.entries import Registry
from pipelines.registry.flag import Flag
from pipelines.scorers.clusters import entry
from pipelines.scorers.entry import CLUSTERS, EMBEDDINGS

RANDOM = "random"
"""The sampler that needs no scorer."""
DEFAULT = "ask_llm"
SCORERS = Registry(
  "scorer",
  "winnow.scorers",
  "pipelines.scorers.entry:Entry",
  {
    "ask_llm": "pipelines.scorers.t5.entries:ASK_LLM",
    "perplexity": "pipelines.scorers.t5.entries:PERPLEXITY",
    "density": "pipelines.scorers.density.entry:ENTRY",
    "semdedup": "pipelines.scorers.semdedup.entry:ENTRY",
    "prototypes": "pipelines.scorers.clusters.entry:PROTOTYPES",
    "minhash": "pipelines.scorers.minhash.entry:ENTRY",
    "student": "pipelines.scorers.student.entry:ENTRY",
    "cluster": "pipelines.scorers.clusters.entry:ENTRY",
  },
)


def choices() -> tuple[str, ...]:
  """Returns the names that `--scorer` takes."""
  return tuple(name for name, entry in SCORERS.items() if entry.describe is not None)


def reading_embeddings() -> tuple[str, ...]:
  """Returns the scorers that read embeddings, or clusters of them."""
  return tuple(name for name in choices() if SCORERS[name].reads in (EMBEDDINGS, CLUSTERS))


def running_models() -> tuple[str, ...]:
  """Returns the scorers that run a model over texts, or read embeddings that a model has made."""
  return tuple(name for name in choices() if SCORERS[name].has_model or name in reading_embeddings())


def methods(sampler: str) -> tuple[str, ...]:
  """Returns the methods of a sampler, its default first; random sampling has no scores to draw by."""
  return ("top_k",) if sampler == RANDOM else SCORERS[sampler].methods


def flags() -> tuple[Flag, ...]:
  """Returns the flags of scorers: those of clusters, which several scorers read, and each scorer's own."""
  reading_clusters = tuple(name for name in choices() if SCORERS[name].reads == CLUSTERS)
  own = [dataclasses.replace(flag, scorers=(name,)) for name, scorer in SCORERS.items() for flag in scorer.flags]
  return (*(dataclasses.replace(flag, scorers=reading_clusters) for flag in entry.FLAGS), *own)


def made_in_stores() -> tuple[str, ...]:
  """Returns the names of files and folders that preparations make in stores, whatever the scorer."""
  return tuple(name for entry in SCORERS.values() if entry.preparation for name in entry.preparation().makes)
