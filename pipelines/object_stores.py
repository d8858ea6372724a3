"""Object stores, each by a client of its own whose errors are told in one sentence: Google's, the hub's, Beam's."""

import contextlib
import errno
import functools
import io
import os
import re
import shutil
from collections.abc import Iterator
from http import HTTPStatus
from typing import IO, Any

from apache_beam.io import filesystem, filesystems

from curation.errors import WinnowError

GCS, HUB = "gs://", "hf://"
COPY_BYTES = 4 << 20
_HUB_REPOSITORY = re.compile(
  r"hf://(datasets|spaces)/([^/@]+/[^/@]+)(?:@(refs/(?:convert|pr)/[^/]+|[^/]+))?/(.+)", re.DOTALL
)


class AccessError(WinnowError):
  """A file could not be looked for, read or written just now: that tells nothing of what it holds."""


def upload(file: IO[bytes], path: str) -> bool:
  """Uploads a finished file; False where the name exists, which GCS alone tells of a writer at the same moment."""
  file.seek(0)
  if path.startswith(HUB):
    raise WinnowError("hf:// can be read only; write to a folder, or to gs://")
  if not path.startswith(GCS):
    with filesystems.FileSystems.create(path, compression_type=filesystem.CompressionTypes.UNCOMPRESSED) as target:
      shutil.copyfileobj(file, target, COPY_BYTES)
    return True
  from google.api_core import exceptions

  try:
    blob(path).upload_from_file(file, if_generation_match=0, checksum="crc32c")
  except exceptions.PreconditionFailed:
    return False
  return True


def beam_options():
  """Beam's options, as the launcher and every worker have set them: they say whose credentials are used."""
  from apache_beam.options import pipeline_options

  return filesystems.FileSystems._pipeline_options or pipeline_options.PipelineOptions([])


@functools.cache
def gcs_client():
  from apache_beam.io.gcp import gcsio

  return gcsio.create_storage_client(beam_options())  # anonymous where there are no credentials


def hub():
  import huggingface_hub  # which takes a while

  return huggingface_hub.HfFileSystem(endpoint=os.environ.get("HF_ENDPOINT"))


def match_hub(pattern: str) -> list[tuple[str, int]]:
  """The files that a glob names, by the commit that they are of now: a branch may move while a job runs."""
  import huggingface_hub

  found = _HUB_REPOSITORY.fullmatch(pattern)
  if found is None:
    raise WinnowError(
      f"{pattern} names no files of a repository; write hf://datasets/OWNER/NAME/PATH, or NAME@REVISION"
    )
  kind, repository, revision, rest = found.groups()
  with told(f"cannot list {pattern}"):
    api = huggingface_hub.HfApi(endpoint=os.environ.get("HF_ENDPOINT"))
    commit = api.repo_info(repository, revision=revision, repo_type=kind.removesuffix("s")).sha
    entries = hub().glob(f"{kind}/{repository}@{commit}/{rest}", detail=True)
  return sorted((HUB + name, about["size"]) for name, about in entries.items() if about["type"] == "file")


def blob(path: str):
  bucket, _, name = path.removeprefix(GCS).partition("/")
  return gcs_client().bucket(bucket).blob(name)


class RemoteFile(io.BufferedIOBase):
  """A file on a store, to be read, whose errors are told as everywhere here."""

  def __init__(self, file: Any, path: str):
    self._file, self._path = file, path

  def readable(self) -> bool:
    return True

  def seekable(self) -> bool:
    return True

  def read(self, size: int | None = -1) -> bytes:
    with told_read(self._path):
      return self._file.read(-1 if size is None else size)

  def readinto(self, buffer: Any) -> int:
    data = self.read(len(buffer))
    buffer[: len(data)] = data
    return len(data)

  def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
    with told_read(self._path):
      self._file.seek(offset, whence)
      return self._file.tell()

  def tell(self) -> int:
    return self._file.tell()

  def close(self) -> None:
    self._file.close()
    super().close()


@contextlib.contextmanager
def told_read(path: str) -> Iterator[None]:
  """`told` of reading; FileNotFoundError where a store says that there is no such file."""
  with told(f"cannot read {path}"):
    try:
      yield
    except Exception as error:
      if getattr(error, "code", None) == HTTPStatus.NOT_FOUND:  # Google's client and Beam's for s3 say it so
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path) from error
      raise


@contextlib.contextmanager
def told(what: str) -> Iterator[None]:
  """Tells failures of other people's file systems, each of which has errors of its own, in one sentence."""
  try:
    yield
  except (WinnowError, FileNotFoundError):
    raise
  except Exception as error:
    details = list((getattr(error, "exception_details", None) or {}).values())
    of_system = error.strerror if isinstance(error, OSError) else None
    cause = str(details[0] if details else of_system or error).strip() or type(error).__name__
    raise AccessError(f"{what}: {cause.splitlines()[0]}") from error
