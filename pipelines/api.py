"""Winnow as a library: `import pipelines.api as winnow`. docs/python.md shows how to use it.

Errors that a caller can fix are `WinnowError`; nothing here prints, ends the process or handles signals. Names are
imported from their modules when they are first used, so importing this module loads neither Beam nor JAX.
"""

import argparse
import difflib
import importlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from curation.errors import WinnowError

if TYPE_CHECKING:
  import numpy as np

  from pipelines.jobs.composites import Sample as Sample
  from pipelines.jobs.composites import Score as Score
  from pipelines.scorers.density.transform import Density as Density
  from pipelines.scorers.t5.ask_llm import AskLlm as AskLlm
  from pipelines.scorers.t5.perplexity import Perplexity as Perplexity
  from pipelines.scoring.description import Description
  from pipelines.scoring.texts import ScoreTexts as ScoreTexts
  from pipelines.selection.top_k import TopK as TopK
  from pipelines.store.datasets import read_documents as read_documents
  from pipelines.store.datasets import read_scores as read_scores

__all__ = [
  "AskLlm",
  "Density",
  "Perplexity",
  "Sample",
  "Score",
  "ScoreTexts",
  "TopK",
  "WinnowError",
  "read_scores",
  "score",
  "scorer",
]
_MODULES = {
  "AskLlm": "pipelines.scorers.t5.ask_llm",
  "Density": "pipelines.scorers.density.transform",
  "Perplexity": "pipelines.scorers.t5.perplexity",
  "Sample": "pipelines.jobs.composites",
  "Score": "pipelines.jobs.composites",
  "ScoreTexts": "pipelines.scoring.texts",
  "TopK": "pipelines.selection.top_k",
  "read_documents": "pipelines.store.datasets",
  "read_scores": "pipelines.store.datasets",
}
_MODEL_SETTINGS = ("model", "vocabulary", "max_input_tokens", "batch_tokens", "dtype", "devices_per_model")


def score(
  texts: Iterable[Any], scorer: "Description | str", *, shard: str | None = None, **settings: Any
) -> "np.ndarray":
  """Scores texts in their order: float32 [N], with NaN for each text that cannot be scored.

  `texts` are strings, in a list, an Arrow, pandas or polars column, or anything else that can be iterated once. A text
  cannot be scored if it is missing, blank or not valid Unicode, if it makes the scorer fail, or if the model gives NaN.

  `scorer` is a description, such as `AskLlm(model="google/flan-t5-small")`, or a name with its `settings`, as the
  function `scorer` takes them. The scores have the bits that `winnow score` gives. For perplexity, which masks spans at
  random, that needs `shard`, the name of the file whose rows the texts are, from 0 on; without it a text's masks follow
  from the text.

  The model stays loaded until a call with another description. Raises WinnowError for settings, a model or items that
  cannot be used.
  """
  from pipelines.scoring import texts as scoring

  description = _named(scorer, settings) if isinstance(scorer, str) else scorer
  if settings and not isinstance(scorer, str):
    raise WinnowError(f"{next(iter(settings))} is a setting of the scorer; give it to {type(scorer).__name__}")
  return scoring.score_texts(description, texts, shard=shard)


def scorer(name: str, **settings: Any) -> "Description":
  """Returns the description of a scorer by the name that `winnow score --scorer` takes, also of installed packages.

  `settings` are called as its flags, such as `model` and `max_input_tokens`. Raises WinnowError for a name or a setting
  that does not exist, and for a scorer that needs a whole corpus.
  """
  return _named(name, settings)


def _named(name: str, settings: dict[str, Any]) -> "Description":
  """Does the work of `scorer`."""
  from pipelines.flags import declarations
  from pipelines.registry import command_names
  from pipelines.scorers import entry, registry

  if name not in registry.choices():
    raise WinnowError(f"there is no scorer {name}; {_nearest(name, registry.choices())}")
  found = registry.SCORERS[name]
  if found.reads != entry.TEXTS or found.upstream is not None:
    raise WinnowError(
      f"the scorer {name} compares the documents of a whole corpus, so it has no scores for single texts; run winnow "
      f"score --scorer={name}, and read what it writes with read_scores"
    )
  flags = {flag.name: flag for flag in declarations.FLAGS if command_names.SCORE in flag.commands}
  known = [*(_MODEL_SETTINGS if found.has_model else ()), *(flag.name for flag in found.flags)]
  for setting, value in settings.items():
    if setting not in known:
      raise WinnowError(f"the scorer {name} has no setting {setting}; {_nearest(setting, known)}")
    if (choices := flags[setting].choices) and value is not None and value not in choices:
      raise WinnowError(f"{setting}={value!r} is none of {', '.join(choices)}")
  defaults = {flag.name: False if flag.type is bool else flag.default for flag in flags.values()}
  assert found.describe is not None
  return found.describe(argparse.Namespace(**(defaults | settings)), entry.Stored(folder=""))


def _nearest(name: str, names: Iterable[str]) -> str:
  near = difflib.get_close_matches(name, names, 1)
  return f"did you mean {near[0]}?" if near else f"there are {', '.join(names)}"


def __getattr__(name: str) -> Any:
  if name not in _MODULES:
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
  return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
  return sorted({*globals(), *__all__})
