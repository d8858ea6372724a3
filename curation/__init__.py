"""What the paper says, as pure functions on arrays: NumPy and JAX, never Beam."""

import importlib
from types import ModuleType
from typing import TYPE_CHECKING

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

# Modules that `from curation import NAME` gives, each loaded when it is asked for: some bring JAX, or a compiler.
_FACE = {
  **dict.fromkeys(("density", "kernels", "kmeans", "minhash", "race", "semdedup"), "coverage"),
  **dict.fromkeys(("checkpoints", "t5", "vocabulary"), "models"),
  **dict.fromkeys(("ask_llm", "perplexity", "sentence_t5", "span_corruption"), "scorers"),
  **dict.fromkeys(("domains", "hashing", "metrics", "quotas"), "selection"),
}
__all__ = [*_FACE]


def __getattr__(name: str) -> ModuleType:
  if name not in _FACE:
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
  return importlib.import_module(f"{__name__}.{_FACE[name]}.{name}")


def __dir__() -> list[str]:
  return sorted({*globals(), *_FACE})
