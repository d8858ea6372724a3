"""Scorers that run a T5 over texts, as `pipelines.scorers` describes scorers; Sentence-T5, which embeds, among them."""

import abc
import dataclasses
import pathlib
import platform
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import pyarrow as pa

from curation.errors import WinnowError
from pipelines import models
from pipelines.corpus import sources
from pipelines.files import fingerprints, storage
from pipelines.runners import devices
from pipelines.scoring.protocol import Scorer, Scores
from pipelines.store import kinds

if TYPE_CHECKING:
  from curation.checkpoints import Checkpoint
  from curation.engine import Work
  from curation.t5 import T5Config
  from curation.vocabulary import Vocabulary


@dataclasses.dataclass(frozen=True, kw_only=True)
class OfModel(abc.ABC):
  """What runs a T5 over texts: its flags, and the model's files."""

  SCORER: ClassVar[str]
  reads: ClassVar[str] = "text"
  speed: ClassVar[float | None] = None  # which depends on the model and the device
  model: str
  max_input_tokens: int | None = None
  batch_tokens: int | None = None
  dtype: str | None = None
  devices_per_model: int = 1
  vocabulary: str | None = None
  """A SentencePiece file, where the model's folder has none or another one is to be used."""
  files: dict[str, dict[str, Any]] | None = None
  """Size and checksum of each of the model's files, once checked."""
  head: str | None = None
  """`checkpoints.own_head` of the model, once checked: scores by an older Winnow, which ignored it, were others."""

  def checked(self) -> Self:
    devices.import_jax()
    folder = models.local_model(self.model)
    self._check(folder)
    return dataclasses.replace(
      self,
      model=models.pinned(self.model, folder),
      vocabulary=models.pinned_vocabulary(self.vocabulary),
      files=self._identity(folder),
      head=self._head(folder),
    )

  def engine(self) -> dict[str, Any]:
    from curation import engine

    return engine.about()

  def request(self) -> dict[str, Any]:
    return {
      "scorer": self.SCORER,
      "model": self.files if self.head is None else {**(self.files or {}), "head": self.head},
      "max_input_tokens": self.max_input_tokens,
      "batch_tokens": self.batch_tokens,
      "dtype": self.dtype,
      "devices_per_model": self.devices_per_model,
    }

  def load(self) -> Scorer:
    from curation import engine

    folder = models.local_model(self.model)
    _refuse_other_files(self.model, self.files, self._identity(folder))
    engine.enable_compilation_cache(str(models.cache_folder() / "programs"))
    return self._load(folder)

  def work(self, texts: list[str], batch_tokens: int) -> "Work":
    """What scoring texts would take; reads no weights."""
    return self._work(models.local_model(self.model), texts, self.batch_tokens or batch_tokens)

  def _identity(self, folder: pathlib.Path) -> dict[str, dict[str, Any]]:
    """Size and checksum of each of the model's files, by its place in the model's folder.

    A vocabulary that was named goes by the name that it would have there, wherever it lies.
    """
    vocabulary = models.local_vocabulary(self.vocabulary)
    return {
      "spiece.model" if path == vocabulary else path.relative_to(folder).as_posix(): {
        "bytes": path.stat().st_size,
        "checksum": storage.checksum(str(path)),
      }
      for path in self._files(folder)
    }

  def _checked_config(self, folder: pathlib.Path) -> "tuple[T5Config, Vocabulary]":
    from curation import checkpoints

    return checkpoints.check_checkpoint(folder, vocabulary=models.local_vocabulary(self.vocabulary))

  def _checkpoint(self, folder: pathlib.Path) -> "Checkpoint":
    from curation import checkpoints

    return checkpoints.load_checkpoint(folder, self.dtype, vocabulary=models.local_vocabulary(self.vocabulary))

  def _files(self, folder: pathlib.Path) -> list[pathlib.Path]:
    from curation import checkpoints

    return checkpoints.checkpoint_files(folder, models.local_vocabulary(self.vocabulary))

  def _head(self, folder: pathlib.Path) -> str | None:
    from curation import checkpoints

    return checkpoints.own_head(folder)

  @abc.abstractmethod
  def _check(self, folder: pathlib.Path) -> None:
    """Raises WinnowError for what cannot work."""

  @abc.abstractmethod
  def _load(self, folder: pathlib.Path) -> Scorer: ...

  @abc.abstractmethod
  def _work(self, folder: pathlib.Path, texts: list[str], batch_tokens: int) -> "Work": ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class AskLlm(OfModel):
  """Ask-LLM (paper 3.1, Algorithm 1): log P("yes") under an instruction-tuned T5."""

  SCORER: ClassVar[str] = "ask_llm"
  template: str | None
  yes_token: str
  max_input_tokens: int

  def request(self) -> dict[str, Any]:
    return {**super().request(), "prompt": self._prompt().template, "yes_token": self.yes_token}

  def _check(self, folder: pathlib.Path) -> None:
    from curation import ask_llm

    ask_llm.check_request(
      self._prompt(),
      *self._checked_config(folder),
      max_input_tokens=self.max_input_tokens,
      batch_tokens=self.batch_tokens,
      devices_per_model=self.devices_per_model,
    )

  def _load(self, folder: pathlib.Path) -> Scorer:
    from curation import ask_llm

    return ask_llm.AskLlmScorer(
      self._checkpoint(folder),
      self._prompt(),
      max_input_tokens=self.max_input_tokens,
      batch_tokens=self.batch_tokens,
      dtype=self.dtype,
      devices_per_model=self.devices_per_model,
    )

  def _work(self, folder: pathlib.Path, texts: list[str], batch_tokens: int) -> "Work":
    from curation import ask_llm

    config, vocabulary = self._checked_config(folder)
    longest = self.max_input_tokens
    return ask_llm.work(self._prompt(), config, vocabulary, texts, max_input_tokens=longest, batch_tokens=batch_tokens)

  def _prompt(self):
    from curation import ask_llm

    return ask_llm.Prompt(ask_llm.TEMPLATE if self.template is None else self.template, self.yes_token)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Perplexity(OfModel):
  """Perplexity (paper B.5): -(mean negative log-likelihood per token) under a T5's own pre-training objective."""

  SCORER: ClassVar[str] = "perplexity"
  PURPOSE: ClassVar[str] = "mask"  # of the hashes that are documents' keys
  reads: ClassVar[str] = sources.KEYED_TEXT
  objective: str
  mask_seed: int
  max_input_tokens: int

  def source(self, texts: sources.Texts) -> sources.KeyedTexts:
    """Where its documents come from: a mask is a function of the seed and the document."""
    return sources.KeyedTexts(texts, self.PURPOSE, self.mask_seed)

  def request(self) -> dict[str, Any]:
    return {**super().request(), "objective": self.objective, "mask_seed": self.mask_seed}

  def _check(self, folder: pathlib.Path) -> None:
    from curation import perplexity

    perplexity.check_request(
      *self._checked_config(folder),
      objective=self.objective,
      max_input_tokens=self.max_input_tokens,
      batch_tokens=self.batch_tokens,
      devices_per_model=self.devices_per_model,
    )

  def _load(self, folder: pathlib.Path) -> Scorer:
    from curation import perplexity

    scorer = perplexity.PerplexityScorer(
      self._checkpoint(folder),
      objective=self.objective,
      max_input_tokens=self.max_input_tokens,
      batch_tokens=self.batch_tokens,
      dtype=self.dtype,
      devices_per_model=self.devices_per_model,
    )
    return _Keyed(scorer)

  def _work(self, folder: pathlib.Path, texts: list[str], batch_tokens: int) -> "Work":
    from curation import perplexity

    return perplexity.work(
      *self._checked_config(folder),
      texts,
      objective=self.objective,
      max_input_tokens=self.max_input_tokens,
      batch_tokens=batch_tokens,
    )


class _Keyed:
  """A loaded scorer of texts and their keys, for columns of both; texts alone, of no corpus, have the key 0."""

  def __init__(self, scorer: Any):
    self._scorer = scorer
    self.describe, self.warm_up, self.run = scorer.describe, scorer.warm_up, scorer.run

  def prepare(self, column: pa.ChunkedArray) -> Any:
    array = column.combine_chunks()
    if not pa.types.is_struct(column.type):
      return self._scorer.prepare(array, np.zeros(len(array), np.uint64))
    return self._scorer.prepare(array.field("text"), array.field("key").to_numpy())


@dataclasses.dataclass(frozen=True, kw_only=True)
class SentenceT5(OfModel):
  """Embeds with Sentence-T5 (paper B.2)."""

  SCORER: ClassVar[str] = kinds.EMBED
  embedding_dtype: str

  def request(self) -> dict[str, Any]:
    return {**super().request(), "embedding_dtype": self.embedding_dtype}

  def _files(self, folder: pathlib.Path) -> list[pathlib.Path]:
    from curation import sentence_t5

    return sentence_t5.model_files(folder, models.local_vocabulary(self.vocabulary))

  def _head(self, folder: pathlib.Path) -> None:
    """An encoder has no head."""

  def _check(self, folder: pathlib.Path) -> None:
    from curation import sentence_t5

    sentence_t5.check(
      folder,
      max_input_tokens=self.max_input_tokens,
      batch_tokens=self.batch_tokens,
      devices_per_model=self.devices_per_model,
      vocabulary=models.local_vocabulary(self.vocabulary),
    )

  def _load(self, folder: pathlib.Path) -> Scorer:
    from curation import sentence_t5

    model = sentence_t5.load(
      folder,
      self.dtype,
      max_input_tokens=self.max_input_tokens,
      vocabulary=models.local_vocabulary(self.vocabulary),
    )
    embedder = sentence_t5.SentenceT5Embedder(
      model,
      batch_tokens=self.batch_tokens,
      devices_per_model=self.devices_per_model,
    )
    return _Embedder(embedder, self.embedding_dtype)

  def _work(self, folder: pathlib.Path, texts: list[str], batch_tokens: int) -> "Work":
    from curation import sentence_t5

    return sentence_t5.work(
      folder,
      texts,
      max_input_tokens=self.max_input_tokens,
      batch_tokens=batch_tokens,
      vocabulary=models.local_vocabulary(self.vocabulary),
    )


class _Embedder:
  """A loaded embedder whose results are kept in another dtype."""

  def __init__(self, embedder: Any, dtype: str):
    self._embedder, self._dtype = embedder, dtype
    self.describe, self.warm_up, self.prepare = embedder.describe, embedder.warm_up, embedder.prepare

  def run(self, prepared: Any, on_batch: Any = None) -> Scores:
    found = self._embedder.run(prepared, on_batch)
    embeddings = found.embeddings.astype(self._dtype)
    return Scores(embeddings, found.num_tokens, found.useful_tokens, found.computed_tokens)


def model_bytes(scorer: OfModel) -> int:
  """Of a checked scorer's files."""
  return sum(about["bytes"] for about in (scorer.files or {}).values())


def _refuse_other_files(model: str, at_launch: dict[str, Any] | None, here: dict[str, Any]) -> None:
  if difference := fingerprints.first_difference(at_launch, here):
    field, there, now = difference
    raise WinnowError(
      f"--model={model} is not the same on every machine: {field} was {there} at launch and is {now} on "
      f"{platform.node()}; give a folder that does not change and that all workers share"
    )
