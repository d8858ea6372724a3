"""The methods of the paper as pure functions on arrays: NumPy and JAX, never Beam."""

from typing import TYPE_CHECKING

from curation import faces

if TYPE_CHECKING:
  from curation.coverage import density as density
  from curation.coverage import kernels as kernels
  from curation.coverage import kmeans as kmeans
  from curation.coverage import minhash as minhash
  from curation.coverage import race as race
  from curation.coverage import semdedup as semdedup
  from curation.models import checkpoints as checkpoints
  from curation.models import t5 as t5
  from curation.models import vocabulary as vocabulary
  from curation.scorers import ask_llm as ask_llm
  from curation.scorers import perplexity as perplexity
  from curation.scorers import sentence_t5 as sentence_t5
  from curation.scorers import span_corruption as span_corruption
  from curation.selection import domains as domains
  from curation.selection import hashing as hashing
  from curation.selection import metrics as metrics
  from curation.selection import quotas as quotas
else:
  __getattr__, __dir__, __all__ = faces.lazy(
    __name__,
    modules=(
      "coverage.density",
      "coverage.kernels",
      "coverage.kmeans",
      "coverage.minhash",
      "coverage.race",
      "coverage.semdedup",
      "models.checkpoints",
      "models.t5",
      "models.vocabulary",
      "scorers.ask_llm",
      "scorers.perplexity",
      "scorers.sentence_t5",
      "scorers.span_corruption",
      "selection.domains",
      "selection.hashing",
      "selection.metrics",
      "selection.quotas",
    ),
  )
