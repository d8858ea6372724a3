"""What `--scorer` can name: how each scorer is described, fingerprinted and loaded on a worker.

The launcher calls `checked()`, which makes sure of all that can be made sure of without computing, `request()`, the
scorer's part of the fingerprint, and `engine()`, what of `describe()` is known without a device; workers call `load()`.
A loaded scorer has four methods. `describe()`: how it computes, JSON-able. `warm_up()`: what must happen once before
the first document. `prepare(texts)`: the host's work for one block, thread-safe. `run(prepared)`: the block's scores.
"""

import dataclasses
import pathlib
import platform
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa

from curation.errors import WinnowError
from pipelines import models, requests, storage


class Scores(NamedTuple):
  """One block's results, in its documents' order. `num_tokens` is None where the scorer counts no tokens."""

  scores: np.ndarray
  num_tokens: np.ndarray | None
  useful_tokens: int
  computed_tokens: int


class Scorer(Protocol):
  def describe(self) -> dict[str, Any]: ...
  def warm_up(self) -> None: ...
  def prepare(self, texts: pa.ChunkedArray) -> Any: ...
  def run(self, prepared: Any) -> Any: ...


@dataclasses.dataclass(frozen=True)
class AskLlm:
  """Ask-LLM (paper 3.1, Algorithm 1): log P("yes") under an instruction-tuned T5."""

  model: str
  template: str | None
  yes_token: str
  max_input_tokens: int
  batch_tokens: int | None = None
  dtype: str | None = None
  devices_per_model: int = 1
  files: dict[str, dict[str, Any]] | None = None
  """Size and checksum of each of the model's files, once checked."""

  def checked(self) -> "AskLlm":
    from curation import ask_llm, checkpoints

    folder = models.local_model(self.model)
    ask_llm.check_request(
      self._prompt(),
      *checkpoints.check_checkpoint(folder),
      max_input_tokens=self.max_input_tokens,
      batch_tokens=self.batch_tokens,
      devices_per_model=self.devices_per_model,
    )
    return dataclasses.replace(self, model=models.pinned(self.model, folder), files=_identity(folder))

  def engine(self) -> dict[str, Any]:
    from curation import engine

    return engine.about()

  def request(self) -> dict[str, Any]:
    return {
      "scorer": "ask_llm",
      "model": self.files,
      "prompt": self._prompt().template,
      "yes_token": self.yes_token,
      "max_input_tokens": self.max_input_tokens,
      "batch_tokens": self.batch_tokens,
      "dtype": self.dtype,
      "devices_per_model": self.devices_per_model,
    }

  def load(self) -> Scorer:
    from curation import ask_llm, checkpoints, engine

    folder = models.local_model(self.model)
    if difference := requests.first_difference(self.files, _identity(folder)):
      field, there, here = difference
      raise WinnowError(
        f"--model={self.model} is not the same on every machine: {field} was {there} at launch and is {here} on "
        f"{platform.node()}; give a folder that does not change and that all workers share"
      )
    engine.enable_compilation_cache(str(models.cache_folder() / "programs"))
    return ask_llm.AskLlmScorer(
      checkpoints.load_checkpoint(folder, self.dtype),
      self._prompt(),
      max_input_tokens=self.max_input_tokens,
      batch_tokens=self.batch_tokens,
      dtype=self.dtype,
      devices_per_model=self.devices_per_model,
    )

  def _prompt(self):
    from curation import ask_llm

    return ask_llm.Prompt(ask_llm.TEMPLATE if self.template is None else self.template, self.yes_token)


@dataclasses.dataclass(frozen=True)
class Count:
  """Scores nothing: finds out which documents there are, for random sampling without a score store (paper B.1)."""

  def checked(self) -> "Count":
    return self

  def engine(self) -> dict[str, Any]:
    return {}

  def request(self) -> dict[str, Any]:
    return {"scorer": "count"}

  def load(self) -> "Count":
    return self

  def describe(self) -> dict[str, Any]:
    return {}

  def warm_up(self) -> None:
    """Needs nothing."""

  def prepare(self, texts: pa.ChunkedArray) -> int:
    return len(texts)

  def run(self, prepared: int) -> Scores:
    return Scores(np.zeros(prepared, np.float32), None, 0, 0)


def _identity(folder: pathlib.Path) -> dict[str, dict[str, Any]]:
  from curation import checkpoints

  return {
    path.name: {"bytes": path.stat().st_size, "checksum": storage.checksum(str(path))}
    for path in checkpoints.checkpoint_files(folder)
  }
