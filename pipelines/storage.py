"""Files, local and on object stores: whole or not there, and never replaced by a second writer.

Local paths use the operating system, `gs://` Google's client, `hf://` (to be read only) the hub's own file system, and
every other scheme, `s3://` among them, goes through Beam's FileSystems.
"""

import base64
import contextlib
import filecmp
import functools
import hashlib
import os
import pathlib
import platform
import re
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator
from typing import IO, BinaryIO, cast

import google_crc32c
from apache_beam.io import filesystem, filesystems

from curation.errors import WinnowError


class AccessError(WinnowError):
  """A file could not be looked for, read or written just now: that tells nothing of what it holds."""


COPY_BYTES = 4 << 20
_GCS, HUB = "gs://", "hf://"
_HUB_REPOSITORY = re.compile(r"hf://(datasets|spaces)/([^/@]+/[^/@]+)(?:@([^/]+))?/(.+)", re.DOTALL)
_HOST = hashlib.blake2b(platform.node().encode(), digest_size=4).hexdigest()
_TEMPORARY = re.compile(r"\..*\.([0-9a-f]{8})-(\d+)-[0-9a-f]{8}\.tmp", re.DOTALL)  # host, process
_ABANDONED_SECONDS = 24 * 3600
_DELETE_ATTEMPTS = 5


def is_local(path: str) -> bool:
  return "://" not in path


def join(folder: str, *names: str) -> str:
  return os.path.join(folder, *names) if is_local(folder) else "/".join([folder.rstrip("/"), *names])


def base_name(path: str) -> str:
  return path.rstrip("/").rsplit("/", 1)[-1]


def escape(path: str) -> str:
  """The glob that means this very path."""
  return re.sub(r"([*?[])", r"[\1]", path)


def match(pattern: str) -> list[tuple[str, int]]:
  """The files (path, bytes) that a glob names, sorted by path; an empty list where there are none."""
  if pattern.startswith(HUB):
    return _match_hub(pattern)
  with _told(f"cannot list {pattern}"):
    found = filesystems.FileSystems.match([pattern])[0].metadata_list
  return sorted((entry.path, entry.size_in_bytes) for entry in found if not _TEMPORARY.fullmatch(base_name(entry.path)))


def list_names(folder: str) -> set[str]:
  """Names of the files directly in a folder; empty where there is no such folder. One listing, no look at a file."""
  if not is_local(folder):
    return {base_name(path) for path, _ in match(join(escape(folder), "*"))}
  try:
    with os.scandir(folder) as entries:
      return {e.name for e in entries if e.is_file() and not _TEMPORARY.fullmatch(e.name)}
  except FileNotFoundError:
    return set()


def list_times(pattern: str) -> dict[str, float]:
  """The files that a glob names, and when each was written, in seconds since 1970."""
  with _told(f"cannot list {pattern}"):
    found = filesystems.FileSystems.match([pattern])[0].metadata_list
  return {
    entry.path: os.path.getmtime(entry.path) if is_local(entry.path) else entry.last_updated_in_seconds
    for entry in found
    if not _TEMPORARY.fullmatch(base_name(entry.path))
  }


def exists(path: str) -> bool:
  if is_local(path):
    return os.path.exists(path)
  with _told(f"cannot look for {path}"):
    if path.startswith(HUB):
      return _hub().exists(path)
    return _blob(path).exists() if path.startswith(_GCS) else filesystems.FileSystems.exists(path)


def size(path: str) -> int:
  """Bytes of a file; FileNotFoundError where there is none."""
  if is_local(path):
    return os.path.getsize(path)
  found = match(escape(path))
  if not found:
    raise FileNotFoundError(path)
  return found[0][1]


def open_input(path: str, *, buffer_bytes: int = 16 << 20) -> BinaryIO:
  """A seekable binary file, as stored (never decompressed). FileNotFoundError where there is none.

  `buffer_bytes`: what one request to an object store asks for; small where little of each of many files is read.
  """
  if is_local(path):
    return open(path, "rb")
  if not exists(path):  # each store has an error of its own for it
    raise FileNotFoundError(path)
  with _told(f"cannot read {path}"):
    if path.startswith(HUB):
      return cast(BinaryIO, _hub().open(path, "rb", block_size=buffer_bytes))
    if path.startswith(_GCS):  # Beam has one buffer size for all
      return cast(BinaryIO, _blob(path).open("rb", chunk_size=buffer_bytes, raw_download=True))
    return filesystems.FileSystems.open(path, compression_type=filesystem.CompressionTypes.UNCOMPRESSED)


def read_bytes(path: str) -> bytes:
  with open_input(path) as file:
    return file.read()


def checksum(path: str) -> str:
  """What tells a file's content: CRC32C, `crc32c:` and eight hex digits, which GCS knows without a read; of the hub's
  files `sha256:` or `git:` (a blob's name), as it keeps them.
  """
  if path.startswith(HUB):
    with _told(f"cannot read {path}"):
      about = _hub().info(path)
      large = about.get("lfs")
      return f"sha256:{large['sha256']}" if large else f"git:{about['blob_id']}"
  if path.startswith(_GCS):
    with _told(f"cannot read {path}"):
      blob = _blob(path)
      blob.reload()
      return "crc32c:" + base64.b64decode(blob.crc32c).hex()
  with open_input(path) as file, _told(f"cannot read {path}"):
    return checksum_of(file)


@contextlib.contextmanager
def create_file(path: str, *, must_agree: bool = False) -> Iterator[IO[bytes]]:
  """A file that appears under `path` whole when the block ends, and not at all if it raises.

  The first writer wins: where `path` exists by then, what was written is dropped, so that retried bundles and second
  workers need no lock. `must_agree` is for content that follows from the request alone: what exists must be the same,
  or WinnowError is raised, for it is another run's. The file object is local, seekable, and can be read again.
  """
  if is_local(path):
    folder = os.path.dirname(path) or "."
    os.makedirs(folder, exist_ok=True)
    temporary = os.path.join(folder, f".{base_name(path)}.{_HOST}-{os.getpid()}-{uuid.uuid4().hex[:8]}.tmp")
    try:
      with open(temporary, "x+b") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
      if not _publish_local(temporary, path) and must_agree and not filecmp.cmp(temporary, path, shallow=False):
        raise _stranger(path)
    finally:
      with contextlib.suppress(FileNotFoundError):
        os.unlink(temporary)
    return
  with tempfile.TemporaryFile() as file:
    yield file
    with _told(f"cannot write {path}"):
      published = _publish_remote(file, path)
    if not published and must_agree:
      file.seek(0)
      if checksum_of(file) != checksum(path):
        raise _stranger(path)


def create(path: str, data: bytes, *, must_agree: bool = False) -> None:
  """`create_file` for content that is at hand."""
  with create_file(path, must_agree=must_agree) as file:
    file.write(data)


def delete(paths: list[str]) -> None:
  """Deletes files; those that are gone already are no error."""
  for path in filter(is_local, paths):
    with contextlib.suppress(FileNotFoundError):
      os.unlink(path)
  gcs = [path for path in paths if path.startswith(_GCS)]
  others = [path for path in paths if not is_local(path) and not path.startswith(_GCS)]
  if gcs:
    from apache_beam.io.gcp import gcsio

    with _told(f"cannot delete {gcs[0]}"):
      statuses = gcsio.GcsIO(_gcs_client(), pipeline_options=_options()).delete_batch(gcs)
    for path, failure in statuses:
      if failure:
        raise WinnowError(f"cannot delete {path}: status {failure}")
  if present := [path for path in others if exists(path)]:
    with _told(f"cannot delete {present[0]}"):
      filesystems.FileSystems.delete([escape(path) for path in present])


def delete_folder(folder: str) -> None:
  """Deletes a folder with all that is in it; none is no error. Raises WinnowError if something is left."""
  if not is_local(folder):
    delete([path for path, _ in match(join(escape(folder), "**"))])
    return
  for attempt in range(_DELETE_ATTEMPTS):
    try:
      shutil.rmtree(folder)
      return
    except FileNotFoundError:
      if not os.path.exists(folder):
        return
    except OSError as error:  # a file that another run wrote meanwhile, perhaps
      if attempt == _DELETE_ATTEMPTS - 1:
        raise WinnowError(f"cannot delete {folder}: {error.strerror or error}") from error


def sweep_temporary_files(folder: str) -> None:
  """Removes what writers that are dead left below a local folder, as far as it can: it is only tidying."""
  if not is_local(folder):
    return
  with contextlib.suppress(OSError):  # another run removes folders under it, perhaps
    for path in pathlib.Path(folder).rglob(".*.tmp"):
      if (found := _TEMPORARY.fullmatch(path.name)) and not _is_written(path, found[1], int(found[2])):
        path.unlink()


def _is_written(path: pathlib.Path, host: str, process: int) -> bool:
  if host != _HOST:
    return time.time() - path.stat().st_mtime < _ABANDONED_SECONDS
  try:
    os.kill(process, 0)
  except ProcessLookupError:
    return False
  except PermissionError:
    pass
  return True


def _publish_local(temporary: str, path: str) -> bool:
  """Gives a finished file its name; False where the name exists."""
  try:
    os.link(temporary, path)  # unlike a rename, fails where the name exists
  except FileExistsError:
    return False
  except FileNotFoundError as error:
    raise WinnowError(
      f"the folder of {path} was removed while it was written: another run has started over there; run it again"
    ) from error
  except OSError:  # a file system without hard links
    if os.path.exists(path):
      return False
    os.rename(temporary, path)
  descriptor = os.open(os.path.dirname(path) or ".", os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)
  return True


def _publish_remote(file: IO[bytes], path: str) -> bool:
  """Uploads a finished file; False where the name exists."""
  if exists(path):  # spares the upload; on GCS the condition below is what holds against a writer at the same moment
    return False
  file.seek(0)
  if path.startswith(HUB):
    raise WinnowError("hf:// can be read only; write to a folder, or to gs://")
  if not path.startswith(_GCS):
    with filesystems.FileSystems.create(path, compression_type=filesystem.CompressionTypes.UNCOMPRESSED) as target:
      shutil.copyfileobj(file, target, COPY_BYTES)
    return True
  from google.api_core import exceptions

  try:
    _blob(path).upload_from_file(file, if_generation_match=0, checksum="crc32c")
  except exceptions.PreconditionFailed:
    return False
  return True


def _stranger(path: str) -> WinnowError:
  return WinnowError(
    f"{path} holds something else than this run makes: a run of another request has written there too; see that it has "
    "ended, and start over with --overwrite"
  )


def _options():
  """Beam's options, as the launcher and every worker have set them: they say whose credentials are used."""
  from apache_beam.options import pipeline_options

  return filesystems.FileSystems._pipeline_options or pipeline_options.PipelineOptions([])


@functools.cache
def _gcs_client():
  from apache_beam.io.gcp import gcsio

  return gcsio.create_storage_client(_options())  # anonymous where there are no credentials


def _hub():
  import huggingface_hub  # which takes a while

  return huggingface_hub.HfFileSystem(endpoint=os.environ.get("HF_ENDPOINT"))


def _match_hub(pattern: str) -> list[tuple[str, int]]:
  """The files that a glob names, by the commit that they are of now: a branch may move while a job runs."""
  import huggingface_hub

  found = _HUB_REPOSITORY.fullmatch(pattern)
  if found is None:
    raise WinnowError(
      f"{pattern} names no files of a repository; write hf://datasets/OWNER/NAME/PATH, or NAME@REVISION"
    )
  kind, repository, revision, rest = found.groups()
  with _told(f"cannot list {pattern}"):
    api = huggingface_hub.HfApi(endpoint=os.environ.get("HF_ENDPOINT"))
    commit = api.repo_info(repository, revision=revision, repo_type=kind.removesuffix("s")).sha
    entries = _hub().glob(f"{kind}/{repository}@{commit}/{rest}", detail=True)
  return sorted((HUB + name, about["size"]) for name, about in entries.items() if about["type"] == "file")


def _blob(path: str):
  bucket, _, name = path.removeprefix(_GCS).partition("/")
  return _gcs_client().bucket(bucket).blob(name)


def checksum_of(file: IO[bytes]) -> str:
  """`checksum` of what a file holds from where it stands."""
  digest = google_crc32c.Checksum()
  while chunk := file.read(COPY_BYTES):
    digest.update(chunk)
  return "crc32c:" + digest.digest().hex()


@contextlib.contextmanager
def _told(what: str) -> Iterator[None]:
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
