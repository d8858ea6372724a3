"""Files on local disks and object stores: each is complete or absent, and a second writer never replaces it.

Local paths use the operating system, `gs://` uses Google's client, and `hf://` (read-only) the hub's own file system.
`s3://` uses Beam's file system on a client that the process shares, and all other schemes use Beam's FileSystems.
"""

import base64
import contextlib
import filecmp
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from typing import IO, BinaryIO, cast

import google_crc32c

from curation.errors import WinnowError
from pipelines.files import globs, local_files, object_stores, temporary_files
from pipelines.files.globs import escape as escape
from pipelines.files.object_stores import COPY_BYTES as COPY_BYTES
from pipelines.files.object_stores import AccessError as AccessError

_DELETE_ATTEMPTS = 5


def is_local(path: str) -> bool:
  """Tells whether a path is on a local disk: it has no scheme."""
  return "://" not in path


def join(folder: str, *names: str) -> str:
  """Joins a folder and names to a path, on a disk or on a store."""
  return os.path.join(folder, *names) if is_local(folder) else "/".join([folder.rstrip("/"), *names])


def base_name(path: str) -> str:
  """Returns the last part of a path."""
  return path.rstrip("/").rsplit("/", 1)[-1]


def refuse_undecodable(path: str) -> None:
  """Raises WinnowError for a name that is not UTF-8, since neither JSON nor Arrow can hold it."""
  try:
    path.encode()
  except UnicodeEncodeError as error:
    shown = path.encode(errors="backslashreplace").decode()
    raise WinnowError(f"{shown} is not UTF-8, as the names of files must be: rename it") from error


def without_root(path: str) -> str:
  """Returns a path or a pattern relative to the root of its disk, bucket or repository.

  Doubled slashes count as one on a disk; on a store they are part of an object's name.
  """
  if path.startswith(object_stores.HUB):
    return object_stores.hub_path(path)
  return globs.without_empty_parts(path) if is_local(path) else path.partition("://")[2].partition("/")[2]


def match(pattern: str) -> list[tuple[str, int]]:
  """Returns the files (path, bytes) that match one of our own globs, hidden ones too, sorted by path; may be empty."""
  if is_local(pattern):
    files = [(path, status.st_size) for path, status in local_files.match(pattern).items()]
  elif pattern.startswith(object_stores.HUB):
    files = object_stores.match_hub(pattern)
  else:
    with object_stores.access_errors(f"cannot list {pattern}"):
      listed = object_stores.file_system(pattern).match([pattern])[0].metadata_list
    files = sorted((entry.path, entry.size_in_bytes) for entry in listed)
  return [(path, size) for path, size in files if not temporary_files.is_temporary(base_name(path))]


def find(pattern: str) -> list[tuple[str, int]]:
  """Returns the files (path, bytes) that match a user's glob by the rules of `globs`, sorted by path; may be empty.

  Raises WinnowError for brackets that are both a name and a wildcard, and for local matches that cannot be read or
  would be counted twice (`local_files.find`).
  """
  if is_local(pattern):
    return [(path, status.st_size) for path, status in local_files.find(pattern).items()]
  if not globs.has_magic(pattern):
    return match(pattern)
  wanted = globs.components(without_root(pattern))
  if pattern.startswith(object_stores.HUB):  # the hub takes brackets only for wildcards
    listed = "/".join("*" if globs.may_be_a_name(part) else part for part in pattern.split("/"))
  else:  # an object store lists by prefix
    listed = re.split(r"[*?[]", pattern, maxsplit=1)[0] + "**"
  files = []
  for path, size in match(listed):
    is_console_folder = path.endswith("/")
    if not is_console_folder and globs.fits_path(without_root(path).split("/"), wanted):
      files.append((path, size))
  globs.refuse_ambiguous({path: without_root(path).split("/") for path, _ in files}, wanted, pattern)
  return files


def list_names(folder: str) -> set[str]:
  """Returns the names of the files directly in a folder; empty if it does not exist. Costs one listing, no stat."""
  if not is_local(folder):
    return {base_name(path) for path, _ in match(join(escape(folder), "*"))}
  try:
    with os.scandir(folder) as entries:
      return {e.name for e in entries if e.is_file() and not temporary_files.is_temporary(e.name)}
  except FileNotFoundError:
    return set()


def list_times(pattern: str) -> dict[str, float]:
  """Returns when each file that matches one of our own globs was written, in seconds since 1970, by path."""
  if is_local(pattern):
    times = {path: status.st_mtime for path, status in local_files.match(pattern).items()}
  else:
    with object_stores.access_errors(f"cannot list {pattern}"):
      listed = object_stores.file_system(pattern).match([pattern])[0].metadata_list
    times = {entry.path: entry.last_updated_in_seconds for entry in listed}
  return {path: seconds for path, seconds in times.items() if not temporary_files.is_temporary(base_name(path))}


def exists(path: str) -> bool:
  """Tells whether there is a file, or a local folder, at a path; raises AccessError if nobody can tell."""
  if is_local(path):
    return os.path.exists(path)
  with object_stores.access_errors(f"cannot look for {path}"):
    if path.startswith(object_stores.HUB):
      return object_stores.hub().exists(path)
    if path.startswith(object_stores.GCS):
      return object_stores.blob(path).exists()
    return object_stores.file_system(path).exists(path)


def size(path: str) -> int:
  """Returns the bytes of a file; raises FileNotFoundError if there is none."""
  if is_local(path):
    return os.path.getsize(path)
  files = match(escape(path))
  if not files:
    raise FileNotFoundError(path)
  return files[0][1]


def open_input(path: str, *, buffer_bytes: int = 16 << 20) -> BinaryIO:
  """Opens a seekable binary file, as stored (never decompressed); raises FileNotFoundError if there is none.

  One request to an object store asks for `buffer_bytes`. Make it small to read a little of each of many files.
  """
  if is_local(path):
    return open(path, "rb")
  if not exists(path):  # each store has its own error for a missing file
    raise FileNotFoundError(path)
  with object_stores.read_errors(path):
    if path.startswith(object_stores.HUB):
      file = object_stores.hub().open(path, "rb", block_size=buffer_bytes)
    elif path.startswith(object_stores.GCS):  # Beam has one buffer size for all files
      file = object_stores.blob(path).open("rb", chunk_size=buffer_bytes, raw_download=True)
    else:
      file = object_stores.file_system(path).open(path, compression_type=object_stores.as_stored())
  return cast(BinaryIO, object_stores.RemoteFile(file, path))


def read_bytes(path: str) -> bytes:
  """Returns the content of a file; raises FileNotFoundError if there is none."""
  with open_input(path) as file:
    return file.read()


def checksum(path: str) -> str:
  """Returns a checksum of a file's content: CRC32C, as `crc32c:` and eight hex digits.

  GCS knows it without a read. Files of the hub have `sha256:` or `git:` (the name of a blob), as the hub keeps them.
  """
  if path.startswith(object_stores.HUB):
    with object_stores.read_errors(path):
      info = object_stores.hub().info(path)
      large = info.get("lfs")
      return f"sha256:{large['sha256']}" if large else f"git:{info['blob_id']}"
  if path.startswith(object_stores.GCS):
    with object_stores.read_errors(path):
      blob = object_stores.blob(path)
      blob.reload()
      return "crc32c:" + base64.b64decode(blob.crc32c).hex()
  with open_input(path) as file, object_stores.read_errors(path):
    return checksum_of(file)


def version(path: str) -> str:
  """Returns a value that changes with a file: its checksum, or the store's own tag if a checksum needs a download."""
  if is_local(path) or path.startswith((object_stores.GCS, object_stores.HUB)):
    return checksum(path)
  if not exists(path):
    raise FileNotFoundError(path)
  with object_stores.read_errors(path):
    return f"{path.partition('://')[0]}:{object_stores.file_system(path).checksum(path)}"


@contextlib.contextmanager
def create_file(path: str, *, must_agree: bool = False) -> Iterator[IO[bytes]]:
  """Creates a file that appears at `path` complete when the `with` block ends, and not at all if the block raises.

  The first writer wins: if `path` exists by then, the new content is dropped. So retried bundles and second workers
  need no lock. `must_agree` is for content that depends on the request alone: an existing file must have the same
  content, or WinnowError is raised, since it belongs to another run. The file object is local and seekable, and can be
  read again.
  """
  if is_local(path):
    folder = os.path.dirname(path) or "."
    os.makedirs(folder, exist_ok=True)
    temporary = os.path.join(folder, temporary_files.name_for(base_name(path)))
    try:
      with open(temporary, "x+b") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
      if not _publish_local(temporary, path) and must_agree and not filecmp.cmp(temporary, path, shallow=False):
        raise _foreign_file(path)
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
        raise _foreign_file(path)


def create(path: str, data: bytes, *, must_agree: bool = False) -> None:
  """Creates a file with this content, as `create_file` does."""
  if is_local(path) and os.path.exists(path) and not must_agree:
    return  # without a temporary file, since the folder may belong to another user
  with create_file(path, must_agree=must_agree) as file:
    file.write(data)


def is_writable(folder: str) -> bool:
  """Tells whether this user may create files in a folder, which need not exist yet; always True for an object store."""
  if not is_local(folder):
    return True
  while not os.path.lexists(folder):
    folder = os.path.dirname(folder) or "."
  return os.access(folder, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids)


def refuse_unwritable(folder: str) -> None:
  """Raises WinnowError if it is known in advance that this user cannot write into a folder."""
  object_stores.refuse_unwritable(folder)
  if not is_writable(folder):
    raise WinnowError(
      f"{folder} cannot be written by this user: choose another folder, or ask its owner for permission"
    )


def delete(paths: list[str]) -> None:
  """Deletes files; ignores files that do not exist."""
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
  # S3 itself ignores objects that do not exist.
  if present := [path for path in others if path.startswith(object_stores.S3) or exists(path)]:
    with object_stores.access_errors(f"cannot delete {present[0]}"):
      object_stores.file_system(present[0]).delete(present)


def delete_folder(folder: str) -> None:
  """Deletes a folder and its content, if it exists; raises WinnowError if something is left."""
  if not is_local(folder):
    delete([path for path, _ in match(join(escape(folder), "**"))])
    return
  for attempt in range(_DELETE_ATTEMPTS):
    try:
      if os.path.islink(folder):  # the link stays, since it says where the folder should be; its target is emptied
        _empty(folder)
      else:
        shutil.rmtree(folder)
      return
    except FileNotFoundError:
      if not os.path.exists(folder):
        return
    except OSError as error:  # perhaps another run wrote a file meanwhile
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
  """Removes temporary files of dead writers below a local folder, and ignores those that it cannot remove.

  The folder may be a link. Links below it are not followed, since their targets may not be ours.
  """
  if not is_local(folder):
    return
  for place, _, names in os.walk(os.path.realpath(folder)):
    for name in names:
      path = os.path.join(place, name)
      with contextlib.suppress(OSError):  # perhaps another run is removing folders
        if temporary_files.is_abandoned(path):
          os.unlink(path)


def _publish_local(temporary: str, path: str) -> bool:
  """Gives a finished file its final name; returns False if the name exists."""
  try:
    os.link(temporary, path)  # unlike a rename, this fails if the name exists
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


def _foreign_file(path: str) -> WinnowError:
  return WinnowError(
    f"{path} holds something else than this run makes: a run of another request has written there too; make sure that "
    "it has ended, and start over with --overwrite"
  )


def checksum_of(file: IO[bytes]) -> str:
  """Returns the `checksum` of the rest of an open file."""
  digest = google_crc32c.Checksum()
  while chunk := file.read(COPY_BYTES):
    digest.update(chunk)
  return "crc32c:" + digest.digest().hex()
