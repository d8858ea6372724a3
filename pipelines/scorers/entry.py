"""A scorer's entry in the registry: its flags, what it reads, its samplers' methods, and its description by flags."""

import argparse
import dataclasses
from collections.abc import Callable
from typing import NamedTuple

from pipelines.registry.command_names import CURATE, SCORE
from pipelines.registry.flag import Flag
from pipelines.scorers.clusters.scorer import Cluster
from pipelines.scoring.description import Description
from pipelines.scoring.preparation import Preparation
from pipelines.scoring.stored_blocks import StoredBlocks, StoredEmbeddings

SCORING = (SCORE, CURATE)
DIMENSIONS = 768
"""Of embeddings, as `--estimate` assumes."""
TEXTS, EMBEDDINGS, CLUSTERS = "texts", "embeddings", "clusters"
METHODS = ("top_k", "bottom_k", "threshold")


class Cost(NamedTuple):
  """The cost of a scorer's own work, beside running a model."""

  title: str
  """What takes it, such as "the sketch"."""
  note: str
  core_hours: float | None = None
  """Hours of one core, as measured here."""
  operations: float | None = None
  """Operations of large matrix products, on all cores."""


class Stored(NamedTuple):
  """The stores that a scorer may read, as its entry's `reads` and `upstream` say, and its own folder."""

  folder: str
  """Where its scores go."""
  embeddings: StoredEmbeddings | None = None
  clusters: StoredBlocks | None = None
  clustering: Cluster | None = None
  """The description of how the clusters were found."""
  upstream: StoredBlocks | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry:
  """One scorer of the registry."""

  name: str
  describe: Callable[[argparse.Namespace, Stored], Description] | None = None
  """Makes the description of flags. Raises WinnowError. None: `--scorer` cannot name it, another command makes it."""
  reads: str = TEXTS
  """TEXTS; EMBEDDINGS or CLUSTERS, which a store has, and which are made first if it is not there."""
  upstream: Callable[[argparse.Namespace], tuple[str, Description]] | None = None
  """What else it reads: the name of a store beside its own, and the description of what fills that from texts."""
  has_model: bool = False
  """It runs --model over texts."""
  flags: tuple[Flag, ...] = ()
  """Its own, beside those of all scorers that read the same."""
  methods: tuple[str, ...] = METHODS
  """How a sampler may draw by its scores, the default first; `ips` where each score tells how common a document is."""
  preparation: type[Preparation] | None = None
  cost: Callable[[argparse.Namespace, float, list[str]], Cost] | None = None
  """What its own work takes for so many documents, of which some texts are given; for `--estimate`."""

  def __post_init__(self):
    if self.reads not in (TEXTS, EMBEDDINGS, CLUSTERS):
      raise ValueError(f"the scorer {self.name} reads {self.reads!r}, which is none of texts, embeddings and clusters")
