"""Files, local and on object stores: whole or not there, and never replaced by a second writer.

Local paths use the operating system, `gs://` Google's client, `hf://` (to be read only) the hub's own file system, and
every other scheme, `s3://` among them, goes through Beam's FileSystems.
"""

import base64
import contextlib
import filecmp
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
from apache_beam.io import filesystem

from curation.errors import WinnowError
from pipelines.files import globs, local_files, object_stores
from pipelines.files.globs import escape as escape
from pipelines.files.object_stores import COPY_BYTES as COPY_BYTES
from pipelines.files.object_stores import AccessError as AccessError


def _of_kernel(path: str) -> str:
  with contextlib.suppress(OSError):
    return os.readlink(path) if os.path.islink(path) else pathlib.Path(path).read_text()
  return ""


# Where a process id means what it means here: containers of one name may share a disk.
_PLACE = (platform.node(), _of_kernel("/proc/sys/kernel/random/boot_id"), _of_kernel("/proc/self/ns/pid"))
_HOST = hashlib.blake2b(repr(_PLACE).encode(), digest_size=4).hexdigest()
_TEMPORARY = re.compile(r"\..*\.([0-9a-f]{8})-(\d+)-[0-9a-f]{8}\.tmp", re.DOTALL)  # host, process
ABANDONED_SECONDS = 24 * 3600
_DELETE_ATTEMPTS = 5


def is_local(path: str) -> bool:
  return "://" not in path


def join(folder: str, *names: str) -> str:
  return os.path.join(folder, *names) if is_local(folder) else "/".join([folder.rstrip("/"), *names])


def base_name(path: str) -> str:
  return path.rstrip("/").rsplit("/", 1)[-1]


def refuse_undecodable(path: str) -> None:
  """Raises WinnowError for a name that is not UTF-8, which neither JSON nor Arrow could hold."""
  try:
    path.encode()
  except UnicodeEncodeError as error:
    shown = path.encode(errors="backslashreplace").decode()
    raise WinnowError(f"{shown} is not UTF-8, as the names of files must be: rename it") from error


def inner(path: str) -> str:
  """A path, or the pattern of one, behind the root of its disk, bucket or repository.

  Doubled slashes are one on a disk, and part of an object's name on a store.
  """
  if path.startswith(object_stores.HUB):
    return object_stores.hub_path(path)
  return globs.without_empty_parts(path) if is_local(path) else path.partition("://")[2].partition("/")[2]


def match(pattern: str) -> list[tuple[str, int]]:
  """The files (path, bytes) that a glob of ours names, hidden ones too, sorted by path; none is no error."""
  if is_local(pattern):
    found = [(path, about.st_size) for path, about in local_files.match(pattern).items()]
  elif pattern.startswith(object_stores.HUB):
    found = object_stores.match_hub(pattern)
  else:
    with object_stores.access_errors(f"cannot list {pattern}"):
      listed = object_stores.file_systems(pattern).match([pattern])[0].metadata_list
    found = sorted((entry.path, entry.size_in_bytes) for entry in listed)
  return [(path, size) for path, size in found if not _TEMPORARY.fullmatch(base_name(path))]


def find(pattern: str) -> list[tuple[str, int]]:
  """The files (path, bytes) that a user's glob names, by the rules of `globs`, sorted by path; none is no error.

  Raises WinnowError for brackets that are a name and a wildcard, and for what a local pattern names and cannot be
  read, or could be counted twice (`local_files.find`).
  """
  if is_local(pattern):
    return [(path, about.st_size) for path, about in local_files.find(pattern).items()]
  if not globs.has_magic(pattern):
    return match(pattern)
  wanted = globs.components(inner(pattern))
  if pattern.startswith(object_stores.HUB):  # which would take brackets for a wildcard alone
    listed = "/".join("*" if globs.may_be_a_name(part) else part for part in pattern.split("/"))
  else:  # a store of objects lists all that begins as the pattern does, whatever follows
    listed = re.split(r"[*?[]", pattern, maxsplit=1)[0] + "**"
  found = []
  for path, size in match(listed):
    is_console_folder = path.endswith("/")
    if not is_console_folder and globs.fits_path(inner(path).split("/"), wanted):
      found.append((path, size))
  globs.refuse_ambiguous({path: inner(path).split("/") for path, _ in found}, wanted, pattern)
  return found


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
  """The files that a glob of ours names, and when each was written, in seconds since 1970."""
  if is_local(pattern):
    times = {path: about.st_mtime for path, about in local_files.match(pattern).items()}
  else:
    with object_stores.access_errors(f"cannot list {pattern}"):
      found = object_stores.file_systems(pattern).match([pattern])[0].metadata_list
    times = {entry.path: entry.last_updated_in_seconds for entry in found}
  return {path: when for path, when in times.items() if not _TEMPORARY.fullmatch(base_name(path))}


def exists(path: str) -> bool:
  if is_local(path):
    return os.path.exists(path)
  with object_stores.access_errors(f"cannot look for {path}"):
    if path.startswith(object_stores.HUB):
      return object_stores.hub().exists(path)
    if path.startswith(object_stores.GCS):
      return object_stores.blob(path).exists()
    return object_stores.file_systems(path).exists(path)


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
  with object_stores.read_errors(path):
    if path.startswith(object_stores.HUB):
      file = object_stores.hub().open(path, "rb", block_size=buffer_bytes)
    elif path.startswith(object_stores.GCS):  # Beam has one buffer size for all
      file = object_stores.blob(path).open("rb", chunk_size=buffer_bytes, raw_download=True)
    else:
      file = object_stores.file_systems(path).open(path, compression_type=filesystem.CompressionTypes.UNCOMPRESSED)
  return cast(BinaryIO, object_stores.RemoteFile(file, path))


def read_bytes(path: str) -> bytes:
  with open_input(path) as file:
    return file.read()


def checksum(path: str) -> str:
  """What tells a file's content: CRC32C, `crc32c:` and eight hex digits, which GCS knows without a read; of the hub's
  files `sha256:` or `git:` (a blob's name), as it keeps them.
  """
  if path.startswith(object_stores.HUB):
    with object_stores.read_errors(path):
      about = object_stores.hub().info(path)
      large = about.get("lfs")
      return f"sha256:{large['sha256']}" if large else f"git:{about['blob_id']}"
  if path.startswith(object_stores.GCS):
    with object_stores.read_errors(path):
      blob = object_stores.blob(path)
      blob.reload()
      return "crc32c:" + base64.b64decode(blob.crc32c).hex()
  with open_input(path) as file, object_stores.read_errors(path):
    return checksum_of(file)


def version(path: str) -> str:
  """What tells whether a file is as it was: its checksum, or where that would take a download what the store says."""
  if is_local(path) or path.startswith((object_stores.GCS, object_stores.HUB)):
    return checksum(path)
  if not exists(path):
    raise FileNotFoundError(path)
  with object_stores.read_errors(path):
    return f"{path.partition('://')[0]}:{object_stores.file_systems(path).checksum(path)}"


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
    with object_stores.access_errors(f"cannot write {path}"):
      published = not exists(path) and object_stores.upload(file, path)
    if not published and must_agree:
      file.seek(0)
      if checksum_of(file) != checksum(path):
        raise _stranger(path)


def create(path: str, data: bytes, *, must_agree: bool = False) -> None:
  """`create_file` for content that is at hand."""
  if is_local(path) and os.path.exists(path) and not must_agree:
    return  # without a temporary file: the folder may be another user's
  with create_file(path, must_agree=must_agree) as file:
    file.write(data)


def is_writable(folder: str) -> bool:
  """Whether this user may create files in a folder, which need not be there yet; of a store nobody knows beforehand."""
  if not is_local(folder):
    return True
  while not os.path.lexists(folder):
    folder = os.path.dirname(folder) or "."
  return os.access(folder, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids)


def refuse_unwritable(folder: str) -> None:
  """Raises WinnowError where it is known beforehand that this user cannot write into a folder."""
  object_stores.refuse_unwritable(folder)
  if not is_writable(folder):
    raise WinnowError(f"{folder} cannot be written by this user: choose another folder, or ask its owner for the right")


def delete(paths: list[str]) -> None:
  """Deletes files; those that are gone already are no error."""
  for path in filter(is_local, paths):
    with contextlib.suppress(FileNotFoundError):
      os.unlink(path)
  gcs = [path for path in paths if path.startswith(object_stores.GCS)]
  others = [path for path in paths if not is_local(path) and not path.startswith(object_stores.GCS)]
  if gcs:
    from apache_beam.io.gcp import gcsio

    with object_stores.access_errors(f"cannot delete {gcs[0]}"):
      client = gcsio.GcsIO(object_stores.gcs_client(), pipeline_options=object_stores.beam_options())
      statuses = client.delete_batch(gcs)
    for path, failure in statuses:
      if failure:
        raise WinnowError(f"cannot delete {path}: status {failure}")
  if present := [path for path in others if exists(path)]:
    with object_stores.access_errors(f"cannot delete {present[0]}"):
      object_stores.file_systems(present[0]).delete([escape(path) for path in present])


def delete_folder(folder: str) -> None:
  """Deletes a folder with all that is in it; none is no error. Raises WinnowError if something is left."""
  if not is_local(folder):
    delete([path for path, _ in match(join(escape(folder), "**"))])
    return
  for attempt in range(_DELETE_ATTEMPTS):
    try:
      if os.path.islink(folder):  # it stays, since it says where the folder is to lie, and what it leads to goes
        _empty(folder)
      else:
        shutil.rmtree(folder)
      return
    except FileNotFoundError:
      if not os.path.exists(folder):
        return
    except OSError as error:  # a file that another run wrote meanwhile, perhaps
      if attempt == _DELETE_ATTEMPTS - 1:
        raise WinnowError(f"cannot delete {folder}: {error.strerror or error}") from error


def _empty(folder: str) -> None:
  with os.scandir(folder) as entries:
    for entry in list(entries):
      if entry.is_dir(follow_symlinks=False):
        shutil.rmtree(entry.path)
      else:
        os.unlink(entry.path)


def sweep_temporary_files(folder: str) -> None:
  """Removes what writers that are dead left below a local folder, as far as it can: it is only tidying.

  The folder may be a link. Links below it are not followed, since what they lead to may not be ours.
  """
  if not is_local(folder):
    return
  for place, _, names in os.walk(os.path.realpath(folder)):
    for name in names:
      path = os.path.join(place, name)
      with contextlib.suppress(OSError):  # another run removes folders under it, perhaps
        if (found := _TEMPORARY.fullmatch(name)) and not _is_written(path, found[1], int(found[2])):
          os.unlink(path)


def _is_written(path: str, host: str, process: int) -> bool:
  if host != _HOST:
    return time.time() - os.path.getmtime(path) < ABANDONED_SECONDS
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


def _stranger(path: str) -> WinnowError:
  return WinnowError(
    f"{path} holds something else than this run makes: a run of another request has written there too; see that it has "
    "ended, and start over with --overwrite"
  )


def checksum_of(file: IO[bytes]) -> str:
  """`checksum` of what a file holds from where it stands."""
  digest = google_crc32c.Checksum()
  while chunk := file.read(COPY_BYTES):
    digest.update(chunk)
  return "crc32c:" + digest.digest().hex()
