"""Models by name: a folder, local or on an object store, or a name on the hub, with @REVISION for a certain one."""

import concurrent.futures
import glob
import hashlib
import os
import pathlib
import re
from typing import NamedTuple

from curation.errors import WinnowError
from pipelines.files import local_files, storage

HUB_FILES = (
  "config.json",
  "*.safetensors",
  "model.safetensors.index.json",
  "spiece.model",
  # Sentence-T5's:
  "modules.json",
  "sentence_bert_config.json",
  "tokenizer_config.json",
  "[0-9]_*/config.json",
  "[0-9]_*/*.safetensors",
)
# The files of a T5X checkpoint that hold the model, and the optimizer's state only where it cannot be told apart.
T5X_FILES = ("checkpoint", "target.*/**", "state/manifest.ocdbt", "state/d/**", "state/ocdbt.process_*/**")
_FETCHES = 16  # at a time: a T5X checkpoint has a thousand small files or more
_HUB_NAME = re.compile(r"([A-Za-z0-9][\w.-]*(?:/[A-Za-z0-9][\w.-]*)?)(?:@([\w./-]+))?", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_CHECKPOINT = re.compile(r"checkpoint[_-](\d+)", re.ASCII)
# checkpoint_100.tmp-1700000000 (T5X), checkpoint_100.orbax-checkpoint-tmp (Orbax; older ones add -1700000000).
_BEING_WRITTEN = re.compile(r".+\.(orbax-checkpoint-tmp(-\d+)?|tmp-\d+)", re.ASCII)
_NAME_OF_BEING_WRITTEN = re.compile(r"checkpoint_\d+_(orbax_checkpoint_tmp(_\d+)?|tmp_\d+)", re.ASCII)
# Where nothing can be renamed, Orbax writes into a checkpoint's own folder, and this file last.
_COMMITTED = "commit_success.txt"
# One of these is in a folder of an object store that holds a whole model.
_MARKS_OF_WHOLE = {_COMMITTED, "checkpoint", "config.json"}


def cache_folder() -> pathlib.Path:
  """Returns the folder of models and compiled programs for later runs: $WINNOW_CACHE, or the user's cache folder."""
  base = os.environ.get("WINNOW_CACHE") or os.path.join(
    os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "winnow"
  )
  return pathlib.Path(base)


def local_model(model: str) -> pathlib.Path:
  """Returns the local folder of a model, which is fetched first if it lies elsewhere.

  Raises WinnowError if there is no such folder, or if the hub does not know the name or cannot be reached.
  """
  if _BEING_WRITTEN.fullmatch(storage.base_name(model)):
    raise WinnowError(
      f"--model={model} is what a training job writes before a checkpoint is whole: wait until it has its final name, "
      "or give another checkpoint"
    )
  if not storage.is_local(model):
    return _fetch_folder(model)
  if os.path.isdir(model):
    return pathlib.Path(model)
  if os.path.exists(model):
    raise WinnowError(f"--model={model} is a file; give the folder with config.json, *.safetensors and spiece.model")
  name = _HUB_NAME.fullmatch(model)
  if model.startswith((".", "/", "~")) or not name:
    raise WinnowError(f"--model={model}: there is no such folder")
  return _fetch_from_hub(*name.groups())


def local_vocabulary(path: str | None) -> pathlib.Path | None:
  """Returns the local file of --vocabulary, fetched first if it lies elsewhere; WinnowError if there is none."""
  if path is None or storage.is_local(path):
    return None if path is None else pathlib.Path(path)
  files = dict(storage.match(storage.escape(path)))
  if not files:
    raise WinnowError(f"--vocabulary={path} is not there; check the path")
  return _fetch(files, path.rpartition("/")[0]) / storage.base_name(path)


def pinned(model: str, folder: pathlib.Path) -> str:
  """Returns the model's name for workers: one on the hub gets the commit that `local_model` read, as names move."""
  if os.path.isdir(model):
    return os.path.abspath(model)  # a worker may have been started in another folder
  is_commit = _COMMIT.fullmatch(folder.name)
  return f"{model.partition('@')[0]}@{folder.name}" if is_commit else model


def pinned_vocabulary(path: str | None) -> str | None:
  """Returns --vocabulary for workers: the absolute path of a local file."""
  return os.path.abspath(path) if path is not None and storage.is_local(path) else path


def model_name(model: str) -> str:
  """Returns the last part of a model's path or hub name, as letters, digits and underscores."""
  name = model if "://" in model or os.path.isdir(model) else model.partition("@")[0]
  return re.sub(r"\W+", "_", storage.base_name(name), flags=re.ASCII).strip("_") or "model"


def checkpoint_name(model: str) -> str:
  """Returns the name of one model among those of training runs, as letters, digits and underscores.

  RUN_checkpoint_STEP for a folder that a training job calls checkpoint_STEP (T5X) or checkpoint-STEP (Hugging Face),
  where RUN is the folder around it; else `model_name`.
  """
  path = (os.path.abspath(model) if storage.is_local(model) else model).rstrip("/")
  run, _, name = path.rpartition("/")
  found = _CHECKPOINT.fullmatch(name)
  return f"{model_name(run)}_checkpoint_{found[1]}" if found else model_name(model)


class FoundModels(NamedTuple):
  """The models that --models names, and the folders that its globs match but that hold no model."""

  models: dict[str, str]
  """Paths and hub names by `checkpoint_name`."""
  left_out: list[str]
  """A sentence about each folder that a glob matches and that is no finished checkpoint."""


def find_models(patterns: str) -> FoundModels:
  """Finds the models of paths, hub names and globs of folders, with commas between them.

  Of the folders that a glob matches, only those called checkpoint_N or checkpoint-N count, and on an object store only
  complete ones. Raises WinnowError if a glob matches none of these, or if two models have the same name.
  """
  found: dict[str, str] = {}
  left_out: list[str] = []
  for pattern in filter(None, patterns.split(",")):
    paths, reasons = _checkpoints(pattern) if glob.has_magic(pattern) else ([pattern], [])
    left_out += reasons
    if not paths:
      why = f": {reasons[0]}" if reasons else "; quote the glob and check the path"
      raise WinnowError(f"--models={pattern} matches no folder of a checkpoint{why}")
    for path in paths:
      name = checkpoint_name(path)
      if found.setdefault(name, path) != path:
        raise WinnowError(
          f"{found[name]} and {path} of --models would both be called {name}: evaluate them by commands of their own, "
          "each with its --scores"
        )
  if not found:
    raise WinnowError("--models= names no model")
  return FoundModels(found, left_out)


def is_unfinished_name(name: str) -> bool:
  """Tells whether a `checkpoint_name` is that of a folder that a training job was still writing."""
  return _NAME_OF_BEING_WRITTEN.fullmatch(name) is not None


def _checkpoints(pattern: str) -> tuple[list[str], list[str]]:
  """Returns the folders of finished checkpoints that a glob matches, and a sentence about each other folder."""
  found, reasons = [], []
  for path, is_whole in _folders(pattern):
    if not _CHECKPOINT.fullmatch(storage.base_name(path)):
      reasons.append(f"{path} is not called checkpoint_N or checkpoint-N; if it is a model, name it without a glob")
    elif not is_whole:
      reasons.append(f"{path} is not whole yet: it has no {_COMMITTED}, which Orbax writes last")
    else:
      found.append(path)
  return found, reasons


def _folders(pattern: str) -> list[tuple[str, bool]]:
  """Returns the folders that a glob matches, sorted, and whether each looks complete by its files."""
  if storage.is_local(pattern):  # where a checkpoint gets its final name once it is whole
    return [(path, True) for path in local_files.find_folders(pattern)]
  # An object store has only files; a folder is what their names begin with.
  depth = pattern.rstrip("/").count("/") + 1
  names: dict[str, set[str]] = {}
  for path, _ in storage.match(storage.join(pattern, "**")):
    parts = path.split("/")
    names.setdefault("/".join(parts[:depth]), set()).add("/".join(parts[depth:]))
  return [(folder, not _MARKS_OF_WHOLE.isdisjoint(names[folder])) for folder in sorted(names)]


def _fetch_from_hub(name: str, revision: str | None) -> pathlib.Path:
  import huggingface_hub
  from huggingface_hub import errors

  try:
    return pathlib.Path(huggingface_hub.snapshot_download(name, revision=revision, allow_patterns=list(HUB_FILES)))
  except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.HFValidationError) as error:
    raise WinnowError(
      f"--model={name}: no such folder here and no such public model or revision on the Hugging Face hub; check the "
      "spelling, or log in with `hf auth login` if it is private"
    ) from error
  except Exception as error:  # the hub's client raises errors of several libraries when it cannot be reached
    raise WinnowError(
      f"--model={name}: no such folder here, it is not in the local Hugging Face cache, and the hub cannot be reached "
      f"({type(error).__name__}); copy the model's folder to this machine and give its path"
    ) from error


def _fetch_folder(folder: str) -> pathlib.Path:
  files: dict[str, int] = {}
  # Asked first: once this file exists, a listing has all files.
  is_committed = storage.exists(storage.join(folder, _COMMITTED))
  try:
    for pattern in HUB_FILES + T5X_FILES:
      files.update(storage.match(storage.join(storage.escape(folder), pattern)))
  except WinnowError as error:
    raise WinnowError(f"--model={folder}: {error}") from error
  if not files:
    raise WinnowError(
      f"--model={folder}: neither config.json, *.safetensors and spiece.model nor a checkpoint of T5X there; check the "
      "path"
    )
  state = storage.join(folder, "state") + "/"
  if not is_committed and all(path.startswith(state) for path in files):
    raise WinnowError(
      f"--model={folder} is not whole yet: it has no {_COMMITTED}, which Orbax writes last; wait for it, or put an "
      "empty file of that name there if you copied the checkpoint from a disk"
    )
  return _fetch(files, folder)


def _fetch(files: dict[str, int], folder: str) -> pathlib.Path:
  """Copies files of known sizes from below a folder into a folder of the cache."""
  names = [path.removeprefix(folder.rstrip("/") + "/") for path in files]
  for name in names:  # the name of an object may be anything
    if any(part in ("", ".", "..") for part in name.split("/")):
      raise WinnowError(f"--model={folder} holds {name!r}, which is no name of a file below it; remove it")
  with concurrent.futures.ThreadPoolExecutor(_FETCHES, "winnow-fetch") as pool:
    # The key holds sizes and versions, so that another model under the same path gets a folder of its own.
    identity = repr(sorted(zip(files, files.values(), pool.map(storage.version, files), strict=True)))
    target = cache_folder() / "models" / hashlib.blake2b(identity.encode(), digest_size=16).hexdigest()
    for _ in pool.map(_copy, files, [target / name for name in names]):
      pass
  return target


def _copy(path: str, place: pathlib.Path) -> None:
  if not place.exists():
    with storage.open_input(path) as source, storage.create_file(str(place)) as copy:
      while chunk := source.read(storage.COPY_BYTES):
        copy.write(chunk)
