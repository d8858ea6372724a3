"""What `--scorer` can name: how each scorer is described, fingerprinted and loaded on a worker.

A loaded scorer has four methods. `describe()`: how it computes, JSON-able. `warm_up()`: what must happen once before
the first document. `prepare(texts)`: the host's work for one block, thread-safe. `run(prepared)`: the block's scores.
"""

import dataclasses
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa

from pipelines import models, storage

ENGINE_VERSION = 1


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

  def request(self) -> dict[str, Any]:
    """Checks what can be checked without computing; the part of the fingerprint that is known at launch."""
    from curation import ask_llm, checkpoints

    folder = models.local_model(self.model)
    ask_llm.check_request(
      self._prompt(),
      checkpoints.check_checkpoint(folder),
      max_input_tokens=self.max_input_tokens,
      batch_tokens=self.batch_tokens,
    )
    files = {
      path.name: {"bytes": path.stat().st_size, "checksum": storage.checksum(str(path))}
      for path in checkpoints.checkpoint_files(folder)
    }
    return {
      "scorer": "ask_llm",
      "model": files,
      "prompt": self._prompt().template,
      "yes_token": self.yes_token,
      "max_input_tokens": self.max_input_tokens,
      "batch_tokens": self.batch_tokens,
      "dtype": self.dtype,
    }

  def load(self) -> Scorer:
    from curation import ask_llm, checkpoints

    ask_llm.enable_compilation_cache(str(models.cache_folder() / "programs"))
    return ask_llm.AskLlmScorer(
      checkpoints.load_checkpoint(models.local_model(self.model)),
      self._prompt(),
      max_input_tokens=self.max_input_tokens,
      batch_tokens=self.batch_tokens,
      dtype=self.dtype,
    )

  def _prompt(self):
    from curation import ask_llm

    return ask_llm.Prompt(ask_llm.TEMPLATE if self.template is None else self.template, self.yes_token)


@dataclasses.dataclass(frozen=True)
class Count:
  """Scores nothing: finds out which documents there are, for random sampling without a score store (paper B.1)."""

  def request(self) -> dict[str, Any]:
    return {"scorer": "count"}

  def load(self) -> "Count":
    return self

  def describe(self) -> dict[str, Any]:
    return {"engine_version": ENGINE_VERSION}

  def warm_up(self) -> None:
    """Needs nothing."""

  def prepare(self, texts: pa.ChunkedArray) -> int:
    return len(texts)

  def run(self, prepared: int) -> Scores:
    return Scores(np.zeros(prepared, np.float32), None, 0, 0)
