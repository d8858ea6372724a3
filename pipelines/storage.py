"""Files, local and on object stores: whole or not there, and never replaced by a second writer.

Local paths use the operating system; every other scheme goes through Beam's FileSystems, except that `gs://` objects
are created by one conditional request, which Beam does not offer.
"""

import base64
import contextlib
import functools
import os
import pathlib
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from typing import IO, BinaryIO, cast

import google_crc32c
from apache_beam.io import filesystem, filesystems

from curation.errors import WinnowError

COPY_BYTES = 4 << 20
_TEMPORARY = ".tmp"


def is_local(path: str) -> bool:
  return "://" not in path


def join(folder: str, *names: str) -> str:
  return os.path.join(folder, *names) if is_local(folder) else "/".join([folder.rstrip("/"), *names])


def base_name(path: str) -> str:
  return path.rstrip("/").rsplit("/", 1)[-1]


def match(pattern: str) -> list[tuple[str, int]]:
  """The files (path, bytes) that a glob names, sorted by path; an empty list where there are none."""
  try:
    found = filesystems.FileSystems.match([pattern])[0].metadata_list
  except (filesystem.BeamIOError, ValueError) as error:  # ValueError: a scheme that no file system here knows
    raise WinnowError(f"cannot list {pattern}: {_cause(error)}") from error
  return sorted((entry.path, entry.size_in_bytes) for entry in found if not _is_temporary(base_name(entry.path)))


def list_folder(folder: str) -> dict[str, int]:
  """Names and bytes of the files directly in a folder; empty where there is no such folder."""
  if not is_local(folder):
    return {base_name(path): size for path, size in match(join(folder, "*"))}
  try:
    with os.scandir(folder) as entries:
      return {e.name: e.stat().st_size for e in entries if e.is_file() and not _is_temporary(e.name)}
  except FileNotFoundError:
    return {}


def exists(path: str) -> bool:
  return os.path.exists(path) if is_local(path) else filesystems.FileSystems.exists(path)


def open_input(path: str, *, buffer_bytes: int = 16 << 20) -> BinaryIO:
  """A seekable binary file, as stored (never decompressed). FileNotFoundError where there is none.

  `buffer_bytes`: what one request to an object store asks for; small where little of each of many files is read.
  """
  if is_local(path):
    return open(path, "rb")
  try:
    if path.startswith("gs://"):  # Beam has one buffer size for all
      return cast(BinaryIO, _blob(path, reload=True).open("rb", chunk_size=buffer_bytes, raw_download=True))
    return filesystems.FileSystems.open(path, compression_type=filesystem.CompressionTypes.UNCOMPRESSED)
  except Exception as error:  # each store has its own for a missing object
    if exists(path):
      raise
    raise FileNotFoundError(path) from error


def read_bytes(path: str) -> bytes:
  with open_input(path) as file:
    return file.read()


def checksum(path: str) -> str:
  """CRC32C of the content: `crc32c:` and eight hex digits; object stores tell it without a read."""
  if path.startswith("gs://"):
    return "crc32c:" + base64.b64decode(_blob(path, reload=True).crc32c).hex()
  digest = google_crc32c.Checksum()
  with open_input(path) as file:
    while chunk := file.read(COPY_BYTES):
      digest.update(chunk)
  return "crc32c:" + digest.digest().hex()


@contextlib.contextmanager
def create_file(path: str) -> Iterator[IO[bytes]]:
  """A file that appears under `path` whole when the block ends, and not at all if it raises.

  The first writer wins: where `path` exists by then, what was written is dropped, so that retried bundles and second
  workers need no lock. The file object is local and seekable.
  """
  if is_local(path):
    folder = os.path.dirname(path) or "."
    os.makedirs(folder, exist_ok=True)
    temporary = os.path.join(folder, f".{base_name(path)}.{uuid.uuid4().hex}{_TEMPORARY}")
    try:
      with open(temporary, "xb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
      _publish_local(temporary, path)
    finally:
      with contextlib.suppress(FileNotFoundError):
        os.unlink(temporary)
    return
  with tempfile.TemporaryFile() as file:
    yield file
    file.seek(0)
    if path.startswith("gs://"):
      _publish_gcs(file, path)
    elif not exists(path):
      with filesystems.FileSystems.create(path, compression_type=filesystem.CompressionTypes.UNCOMPRESSED) as target:
        shutil.copyfileobj(file, target, COPY_BYTES)


def create(path: str, data: bytes) -> None:
  """`create_file` for content that is at hand."""
  with create_file(path) as file:
    file.write(data)


def delete(paths: list[str]) -> None:
  """Deletes files; those that are gone already are no error."""
  local = [path for path in paths if is_local(path)]
  for path in local:
    with contextlib.suppress(FileNotFoundError):
      os.unlink(path)
  remote = [path for path in paths if not is_local(path)]
  if remote:
    with contextlib.suppress(filesystem.BeamIOError):
      filesystems.FileSystems.delete(remote)


def delete_folder(folder: str) -> None:
  """Deletes a folder with all that is in it; none is no error."""
  if is_local(folder):
    shutil.rmtree(folder, ignore_errors=True)
  elif match(join(folder, "**")):
    filesystems.FileSystems.delete([folder.rstrip("/") + "/"])


def sweep_temporary_files(folder: str) -> None:
  """Removes what killed writers left below a local folder; a live second writer finds its name gone and looks again."""
  if is_local(folder):
    for path in pathlib.Path(folder).rglob(f".*{_TEMPORARY}"):
      path.unlink(missing_ok=True)


def _is_temporary(name: str) -> bool:
  return name.startswith(".") and name.endswith(_TEMPORARY)


def _publish_local(temporary: str, path: str) -> None:
  try:
    os.link(temporary, path)  # unlike a rename, fails where the name exists
  except FileExistsError:
    return
  except FileNotFoundError as error:
    if not os.path.exists(path):
      raise WinnowError(
        f"{path} was swept away while it was written: another run of the same command has just ended; run it again"
      ) from error
    return
  except OSError:  # a file system without hard links
    if not os.path.exists(path):
      os.rename(temporary, path)
  descriptor = os.open(os.path.dirname(path) or ".", os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)


def _publish_gcs(file: IO[bytes], path: str) -> None:
  from google.api_core import exceptions

  if exists(path):  # spares the upload; the condition below is what holds against a writer at the same moment
    return
  with contextlib.suppress(exceptions.PreconditionFailed):
    _blob(path).upload_from_file(file, if_generation_match=0, checksum="crc32c")


@functools.cache
def _gcs_client():
  from apache_beam.io.gcp import gcsio
  from apache_beam.options import pipeline_options

  return gcsio.create_storage_client(pipeline_options.PipelineOptions([]))  # anonymous where there are no credentials


def _blob(path: str, *, reload: bool = False):
  bucket, _, name = path.removeprefix("gs://").partition("/")
  blob = _gcs_client().bucket(bucket).blob(name)
  if reload:
    blob.reload()
  return blob


def _cause(error: Exception) -> str:
  details = list((getattr(error, "exception_details", None) or {}).values())
  return str(details[0] if details else error).splitlines()[0]
