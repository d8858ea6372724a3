"""A scorer's entry in the registry: its flags, what it reads, its samplers' methods, and its description by flags."""

import argparse
import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from pipelines.registry.command_names import CURATE, SCORE
from pipelines.registry.flag import Flag

if TYPE_CHECKING:
  from pipelines.scorers.clusters.scorer import Cluster
  from pipelines.scoring.description import Description
  from pipelines.scoring.preparation import Preparation
  from pipelines.scoring.stored_blocks import StoredBlocks, StoredEmbeddings

SCORING = (SCORE, CURATE)
DIMENSIONS = 768
"""The number of dimensions that `--estimate` assumes embeddings to have."""
TEXTS, EMBEDDINGS, CLUSTERS = "texts", "embeddings", "clusters"
METHODS = ("top_k", "bottom_k", "threshold")


class Cost(NamedTuple):
  """The cost of a scorer's own work, beside running a model."""

  title: str
  """The name of the work, such as "the sketch"."""
  note: str
  core_hours: float | None = None
  """Hours of one core, from a measurement on this machine."""
  operations: float | None = None
  """Floating-point operations of large matrix products, which use all cores."""


class Stored(NamedTuple):
  """The stores that a scorer may read, as its entry's `reads` and `upstream` say, and its own folder."""

  folder: str
  """The folder for its scores."""
  embeddings: "StoredEmbeddings | None" = None
  clusters: "StoredBlocks | None" = None
  clustering: "Cluster | None" = None
  """The description of how the clusters were found."""
  upstream: "StoredBlocks | None" = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry:
  """One scorer of the registry.

  Every command reads all entries for its flags, `--help` too. So a module with an entry imports the code that scores
  inside the functions that need it.
  """

  name: str
  describe: "Callable[[argparse.Namespace, Stored], Description] | None" = None
  """Makes the description from flags, or raises WinnowError; None if `--scorer` cannot name the scorer."""
  reads: str = TEXTS
  """The input: TEXTS, or the EMBEDDINGS or CLUSTERS of a store, which is made first if it does not exist."""
  upstream: "Callable[[argparse.Namespace], tuple[str, Description]] | None" = None
  """A further store to read: its name, and the description of the scorer that fills it from texts."""
  has_model: bool = False
  """Whether it runs --model over texts."""
  settle: Callable[[argparse.Namespace], None] | None = None
  """Sets flags that nobody gave, such as the model, to what files that other flags name say. Raises WinnowError."""
  default_name: Callable[[argparse.Namespace], str] | None = None
  """Returns the default name of a store; None: the scorer's name with that of its model or embeddings."""
  flags: tuple[Flag, ...] = ()
  """Its own flags; it also has those of all scorers with the same `reads`."""
  methods: tuple[str, ...] = METHODS
  """The methods that a sampler may use on its scores, the default first. `ips` wants scores that are densities."""
  unit: str = "score"
  """What a score is, in a few words, which name the axis of a report's charts."""
  is_log_probability: bool = False
  """Whether a score is the logarithm of a probability: a report spreads out the end near P = 1."""
  suggested_amount: str = "--rate=0.2"
  """The flag that says how much to keep, in the command that `winnow score` suggests at its end."""
  preparation: "Callable[[], type[Preparation]] | None" = None
  """Returns what must be made of a whole store before its rows can be scored."""
  cost: Callable[[argparse.Namespace, float, list[str]], Cost] | None = None
  """Returns the cost of its own work for a number of documents, by some of their texts, for `--estimate`."""

  def __post_init__(self):
    if self.reads not in (TEXTS, EMBEDDINGS, CLUSTERS):
      raise ValueError(f"the scorer {self.name} reads {self.reads!r}, which is none of texts, embeddings and clusters")
