"""What `--scorer` can name: how each scorer is described, fingerprinted and loaded on a worker.

The launcher calls `checked()`, which makes sure of all that can be made sure of without computing, `request()`, the
scorer's part of the fingerprint, and `engine()`, what of `describe()` is known without a device; workers call `load()`.
A loaded scorer has four methods. `describe()`: how it computes, JSON-able. `warm_up()`: what must happen once before
the first document. `prepare(column)`: the host's work for one block, thread-safe, from the column of its documents that
the description's `reads` names. `run(prepared)`: the block's scores.

What embeds is described here too: its results are embeddings in place of scores, and go to a store of their own.
"""

import dataclasses
import pathlib
import platform
import threading
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

import numpy as np
import pyarrow as pa

from curation.errors import WinnowError
from pipelines import embedding_files, memory, models, requests, sources, storage, stores

if TYPE_CHECKING:
  from curation.engine import Work


class Scores(NamedTuple):
  """One block's results, in its documents' order. `num_tokens` is None where the scorer counts no tokens."""

  scores: np.ndarray
  """float32 [N]; of what embeds, embeddings [N, D] in the dtype that they are kept in."""
  num_tokens: np.ndarray | None
  useful_tokens: int
  computed_tokens: int


class Scorer(Protocol):
  def describe(self) -> dict[str, Any]: ...
  def warm_up(self) -> None: ...
  def prepare(self, column: pa.ChunkedArray) -> Any: ...
  def run(self, prepared: Any) -> Any: ...


@dataclasses.dataclass(frozen=True)
class AskLlm:
  """Ask-LLM (paper 3.1, Algorithm 1): log P("yes") under an instruction-tuned T5."""

  reads: ClassVar[str] = "text"
  model: str
  template: str | None
  yes_token: str
  max_input_tokens: int
  batch_tokens: int | None = None
  dtype: str | None = None
  devices_per_model: int = 1
  vocabulary: str | None = None
  """A SentencePiece file, where the model's folder has none or another one is to be used."""
  files: dict[str, dict[str, Any]] | None = None
  """Size and checksum of each of the model's files, once checked."""

  def checked(self) -> "AskLlm":
    from curation import ask_llm, checkpoints

    folder, vocabulary = models.local_model(self.model), models.local_vocabulary(self.vocabulary)
    ask_llm.check_request(
      self._prompt(),
      *checkpoints.check_checkpoint(folder, vocabulary=vocabulary),
      max_input_tokens=self.max_input_tokens,
      batch_tokens=self.batch_tokens,
      devices_per_model=self.devices_per_model,
    )
    files = _identity(folder, checkpoints.checkpoint_files(folder, vocabulary))
    return dataclasses.replace(
      self,
      model=models.pinned(self.model, folder),
      vocabulary=models.pinned_vocabulary(self.vocabulary),
      files=files,
    )

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

    folder, vocabulary = models.local_model(self.model), models.local_vocabulary(self.vocabulary)
    _refuse_other_files(self.model, self.files, _identity(folder, checkpoints.checkpoint_files(folder, vocabulary)))
    engine.enable_compilation_cache(str(models.cache_folder() / "programs"))
    return ask_llm.AskLlmScorer(
      checkpoints.load_checkpoint(folder, self.dtype, vocabulary=vocabulary),
      self._prompt(),
      max_input_tokens=self.max_input_tokens,
      batch_tokens=self.batch_tokens,
      dtype=self.dtype,
      devices_per_model=self.devices_per_model,
    )

  def work(self, texts: list[str], batch_tokens: int) -> "Work":
    """What scoring texts would take; reads no weights."""
    from curation import ask_llm, checkpoints

    config, vocabulary = checkpoints.check_checkpoint(
      models.local_model(self.model), vocabulary=models.local_vocabulary(self.vocabulary)
    )
    batch_tokens, longest = self.batch_tokens or batch_tokens, self.max_input_tokens
    return ask_llm.work(self._prompt(), config, vocabulary, texts, max_input_tokens=longest, batch_tokens=batch_tokens)

  def _prompt(self):
    from curation import ask_llm

    return ask_llm.Prompt(ask_llm.TEMPLATE if self.template is None else self.template, self.yes_token)


@dataclasses.dataclass(frozen=True)
class SentenceT5:
  """Embeds with Sentence-T5 (paper B.2)."""

  reads: ClassVar[str] = "text"
  model: str
  embedding_dtype: str
  max_input_tokens: int | None = None
  batch_tokens: int | None = None
  dtype: str | None = None
  devices_per_model: int = 1
  files: dict[str, dict[str, Any]] | None = None
  """Size and checksum of each of the model's files, once checked."""

  def checked(self) -> "SentenceT5":
    from curation import sentence_t5

    folder = models.local_model(self.model)
    sentence_t5.check(
      folder,
      max_input_tokens=self.max_input_tokens,
      batch_tokens=self.batch_tokens,
      devices_per_model=self.devices_per_model,
    )
    files = _identity(folder, sentence_t5.model_files(folder))
    return dataclasses.replace(self, model=models.pinned(self.model, folder), files=files)

  def engine(self) -> dict[str, Any]:
    from curation import engine

    return engine.about()

  def request(self) -> dict[str, Any]:
    return {
      "scorer": stores.EMBED,
      "model": self.files,
      "embedding_dtype": self.embedding_dtype,
      "max_input_tokens": self.max_input_tokens,
      "batch_tokens": self.batch_tokens,
      "dtype": self.dtype,
      "devices_per_model": self.devices_per_model,
    }

  def load(self) -> Scorer:
    from curation import engine, sentence_t5

    folder = models.local_model(self.model)
    _refuse_other_files(self.model, self.files, _identity(folder, sentence_t5.model_files(folder)))
    engine.enable_compilation_cache(str(models.cache_folder() / "programs"))
    embedder = sentence_t5.SentenceT5Embedder(
      sentence_t5.load(folder, self.dtype),
      max_input_tokens=self.max_input_tokens,
      batch_tokens=self.batch_tokens,
      devices_per_model=self.devices_per_model,
    )
    return _Embedder(embedder, self.embedding_dtype)

  def work(self, texts: list[str], batch_tokens: int) -> "Work":
    """What embedding texts would take; reads no weights."""
    from curation import sentence_t5

    folder, batch_tokens = models.local_model(self.model), self.batch_tokens or batch_tokens
    return sentence_t5.work(folder, texts, max_input_tokens=self.max_input_tokens, batch_tokens=batch_tokens)


class _Embedder:
  """A loaded embedder whose results are kept in another dtype."""

  def __init__(self, embedder: Any, dtype: str):
    self._embedder, self._dtype = embedder, dtype
    self.describe, self.warm_up, self.prepare = embedder.describe, embedder.warm_up, embedder.prepare

  def run(self, prepared: Any) -> Scores:
    found = self._embedder.run(prepared)
    embeddings = found.embeddings.astype(self._dtype)
    return Scores(embeddings, found.num_tokens, found.useful_tokens, found.computed_tokens)


@dataclasses.dataclass(frozen=True)
class MadeElsewhere:
  """Keeps embeddings that come with the documents, as unit vectors."""

  reads: ClassVar[str] = stores.EMBEDDING
  files: dict[str, embedding_files.EmbeddingFile]
  embedding_dtype: str

  def checked(self) -> "MadeElsewhere":
    return self

  def engine(self) -> dict[str, Any]:
    return {}

  def request(self) -> dict[str, Any]:
    files = {shard: about.identity() for shard, about in self.files.items()}
    return {"scorer": stores.EMBED, "embeddings": files, "embedding_dtype": self.embedding_dtype}

  def load(self) -> "MadeElsewhere":
    return self

  def describe(self) -> dict[str, Any]:
    return {}

  def warm_up(self) -> None:
    """Needs nothing."""

  def prepare(self, column: pa.ChunkedArray) -> np.ndarray:
    return sources.embedding_array(column, "float32")

  def run(self, prepared: np.ndarray) -> Scores:
    from curation import race

    return Scores(race.unit_vectors(prepared).astype(self.embedding_dtype), None, 0, 0)


@dataclasses.dataclass(frozen=True)
class Density:
  """RACE's estimate of the kernel sum around each document's embedding (paper 3.2, Algorithm 2)."""

  reads: ClassVar[str] = stores.EMBEDDING
  sketch_path: str
  embeddings: sources.StoredEmbeddings
  kernel: str
  bandwidth: float | None
  """None: chosen from the data, and so `hashes`."""
  hashes: int | None
  rows: int
  counters: int
  seed: int
  correct_collisions: bool

  def checked(self) -> "Density":
    """Raises WinnowError for a sketch that cannot be, whatever the data."""
    from curation import kernels, race

    stand_in = 1.0 if self.bandwidth is None and self.kernel != "angular" else self.bandwidth
    race.SketchConfig(
      1,
      kernels.Kernel(self.kernel, stand_in, 1 if self.hashes is None else self.hashes),
      self.rows,
      self.counters,
      seed=self.seed,
    )
    return self

  def engine(self) -> dict[str, Any]:
    store = self.embeddings.store
    return {"embeddings": store.fingerprint_with_engine()} if storage.exists(store.engine_path) else {}

  def request(self) -> dict[str, Any]:
    return {
      "scorer": "density",
      "embeddings": self.embeddings.store.fingerprint,
      "kernel": self.kernel,
      "bandwidth": self.bandwidth,
      "hashes": self.hashes,
      "sketch_rows": self.rows,
      "sketch_counters": self.counters,
      "sketch_seed": self.seed,
      "correct_collisions": self.correct_collisions,
    }

  def load(self) -> Scorer:
    return _DensityScorer(self)


class _DensityScorer:
  """One sketch for all threads of a process, which uses all cores for one block at a time."""

  def __init__(self, about: Density):
    from curation import race

    memory.return_large_arrays()
    self._about, self._turn = about, threading.Lock()
    with storage.open_input(about.sketch_path) as file:
      self._sketch = race.SketchFile(file, about.sketch_path).load()

  def describe(self) -> dict[str, Any]:
    sketch = {"config": self._sketch.config.to_json(), "num_points": self._sketch.num_points}
    return self._about.engine() | {"sketch": sketch | {"hashes": self._sketch.hashes.checksum()}}

  def warm_up(self) -> None:
    """Needs nothing."""

  def prepare(self, column: pa.ChunkedArray) -> np.ndarray:
    return sources.embedding_array(column, self._about.embeddings.dtype)

  def run(self, prepared: np.ndarray) -> Scores:
    with self._turn:
      mean_N = self._sketch.density(prepared).mean
    if self._about.correct_collisions:
      mean_N = self._sketch.without_collisions(mean_N)
    return Scores(mean_N.astype(np.float32), None, 0, 0)


@dataclasses.dataclass(frozen=True)
class Count:
  """Scores nothing: finds out which documents there are, for random sampling without a score store (paper B.1)."""

  reads: ClassVar[str] = "text"

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


Description = AskLlm | SentenceT5 | MadeElsewhere | Density | Count


def model_bytes(scorer: "AskLlm | SentenceT5") -> int:
  """Of a checked scorer's files."""
  return sum(about["bytes"] for about in (scorer.files or {}).values())


def _identity(folder: pathlib.Path, files: list[pathlib.Path]) -> dict[str, dict[str, Any]]:
  """Size and checksum of each of a model's files, by its place in the model's folder.

  A vocabulary from elsewhere goes by the name that it would have there.
  """

  def name(path: pathlib.Path) -> str:
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else "spiece.model"

  return {name(path): {"bytes": path.stat().st_size, "checksum": storage.checksum(str(path))} for path in files}


def _refuse_other_files(model: str, at_launch: dict[str, Any] | None, here: dict[str, Any]) -> None:
  if difference := requests.first_difference(at_launch, here):
    field, there, now = difference
    raise WinnowError(
      f"--model={model} is not the same on every machine: {field} was {there} at launch and is {now} on "
      f"{platform.node()}; give a folder that does not change and that all workers share"
    )
