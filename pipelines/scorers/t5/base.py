"""The base of scorers that run a T5 over texts."""

import abc
import argparse
import dataclasses
import os
import pathlib
import platform
from typing import TYPE_CHECKING, Any, ClassVar, Self

from curation.errors import WinnowError
from pipelines.files import fingerprints, storage
from pipelines.registry.flag import require
from pipelines.runners import devices
from pipelines.scorers.t5 import model_files
from pipelines.scoring.description import Description, Scorer

if TYPE_CHECKING:
  from curation.models.checkpoints import Checkpoint
  from curation.models.engine import Work
  from curation.models.t5 import T5Config
  from curation.models.vocabulary import Vocabulary


@dataclasses.dataclass(frozen=True, kw_only=True)
class T5Description(Description):
  """A description of a scorer that runs a T5 over texts: its flags, and the model's files."""

  SCORER: ClassVar[str]
  loading: ClassVar[str | None] = "loading the model"
  model: str
  max_input_tokens: int | None = None
  batch_tokens: int | None = None
  dtype: str | None = None
  devices_per_model: int = 1
  vocabulary: str | None = None
  """A SentencePiece file, for a model whose folder has none, or to use in place of that one."""
  files: dict[str, dict[str, Any]] | None = None
  """Size and checksum of each of the model's files, once checked."""
  head: str | None = None
  """`checkpoints.own_head` of the model, once checked: an older Winnow ignored it, and its scores differed."""

  def __post_init__(self):
    for name in ("model", "vocabulary"):  # programs may hand over a pathlib.Path
      if (path := getattr(self, name)) is not None:
        object.__setattr__(self, name, os.fspath(path))

  @property
  def model_bytes(self) -> int:
    return sum(file["bytes"] for file in (self.files or {}).values())

  @property
  def num_devices(self) -> int:
    return self.devices_per_model

  def checked(self) -> Self:
    if self.devices_per_model < 1:
      raise WinnowError(f"--devices_per_model={self.devices_per_model} is below 1")
    devices.import_jax()
    folder = model_files.local_model(self.model)
    self._check(folder)
    return dataclasses.replace(
      self,
      model=model_files.pinned(self.model, folder),
      vocabulary=model_files.pinned_vocabulary(self.vocabulary),
      files=self._identity(folder),
      head=self._head(folder),
    )

  def stamp(self) -> dict[str, tuple[int, int]]:
    """Returns the size and the time of the last change of each of the model's files, by its path."""
    stats = {str(path): path.stat() for path in self._files(model_files.local_model(self.model))}
    return {path: (stat.st_size, stat.st_mtime_ns) for path, stat in stats.items()}

  def engine(self) -> dict[str, Any]:
    from curation.models import engine

    return engine.versions()

  def request(self) -> dict[str, Any]:
    return {
      "scorer": self.SCORER,
      "model": self.files if self.head is None else {**(self.files or {}), "head": self.head},
      "max_input_tokens": self.max_input_tokens,
      "batch_tokens": self.batch_tokens,
      "dtype": self.dtype,
      "devices_per_model": self.devices_per_model,
    }

  def made_with(self, namespace: argparse.Namespace) -> dict[str, str]:
    model = namespace.model if os.path.isdir(namespace.model) else self.model  # with the revision that was read
    return {"model": model} | ({} if self.vocabulary is None else {"vocabulary": namespace.vocabulary})

  def load(self) -> Scorer:
    from curation.models import engine

    folder = model_files.local_model(self.model)
    _refuse_other_files(self.model, self.files, self._identity(folder))
    engine.enable_compilation_cache(str(model_files.cache_folder() / "programs"))
    return self._load(folder)

  def work(self, texts: list[str], batch_tokens: int) -> "Work":
    """Estimates the work of scoring texts, without reading weights."""
    return self._work(model_files.local_model(self.model), texts, self.batch_tokens or batch_tokens)

  def _identity(self, folder: pathlib.Path) -> dict[str, dict[str, Any]]:
    """Returns the size and checksum of each of the model's files, by its path in the model's folder.

    A vocabulary given by --vocabulary has the name that it would have there, wherever it lies.
    """
    vocabulary = model_files.local_vocabulary(self.vocabulary)
    return {
      "spiece.model" if path == vocabulary else path.relative_to(folder).as_posix(): {
        "bytes": path.stat().st_size,
        "checksum": storage.checksum(str(path)),
      }
      for path in self._files(folder)
    }

  def _checked_config(self, folder: pathlib.Path) -> "tuple[T5Config, Vocabulary]":
    from curation.models import checkpoints

    return checkpoints.check_checkpoint(folder, vocabulary=model_files.local_vocabulary(self.vocabulary))

  def _checkpoint(self, folder: pathlib.Path) -> "Checkpoint":
    from curation.models import checkpoints

    return checkpoints.load_checkpoint(folder, self.dtype, vocabulary=model_files.local_vocabulary(self.vocabulary))

  def _files(self, folder: pathlib.Path) -> list[pathlib.Path]:
    from curation.models import checkpoints

    return checkpoints.checkpoint_files(folder, model_files.local_vocabulary(self.vocabulary))

  def _head(self, folder: pathlib.Path) -> str | None:
    from curation.models import checkpoints

    return checkpoints.own_head(folder)

  @abc.abstractmethod
  def _check(self, folder: pathlib.Path) -> None:
    """Raises WinnowError if the request cannot work."""

  @abc.abstractmethod
  def _load(self, folder: pathlib.Path) -> Scorer: ...

  @abc.abstractmethod
  def _work(self, folder: pathlib.Path, texts: list[str], batch_tokens: int) -> "Work": ...


def _refuse_other_files(model: str, at_launch: dict[str, Any] | None, here: dict[str, Any]) -> None:
  if difference := fingerprints.first_difference(at_launch, here):
    field, there, now = difference
    raise WinnowError(
      f"--model={model} is not the same on every machine: {field} was {there} at launch and is {now} on "
      f"{platform.node()}; give a folder that does not change and that all workers share"
    )


def common_flags(namespace: argparse.Namespace) -> dict[str, Any]:
  """Returns the fields that every scorer with a --model takes from the flags."""
  require(namespace, "model")
  return {
    "model": namespace.model,
    "max_input_tokens": 512 if namespace.max_input_tokens is None else namespace.max_input_tokens,
    "batch_tokens": namespace.batch_tokens,
    "dtype": namespace.dtype,
    "devices_per_model": namespace.devices_per_model,
    "vocabulary": namespace.vocabulary,
  }
