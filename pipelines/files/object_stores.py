"""Object stores, through the clients of Google, the Hugging Face hub and Beam; each error becomes one sentence."""

import contextlib
import errno
import functools
import io
import os
import re
import shutil
from collections.abc import Iterator
from http import HTTPStatus
from typing import IO, TYPE_CHECKING, Any

from curation.errors import WinnowError

if TYPE_CHECKING:
  from apache_beam.io import filesystem

GCS, HUB, S3 = "gs://", "hf://", "s3://"
COPY_BYTES = 4 << 20
_REACH_SECONDS = 10.0  # limit for the first answer of a bucket; later requests are retried for minutes
_EMULATOR = "STORAGE_EMULATOR_HOST"
_NO_GOOGLE = (
  "there are no Google credentials here: run gcloud auth application-default login, or set "
  "GOOGLE_APPLICATION_CREDENTIALS to a key file"
)
_NO_AWS = (
  "there are no AWS credentials here: set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give "
  "--s3_access_key_id and --s3_secret_access_key"
)
_HUB_REPOSITORY = re.compile(
  r"hf://(datasets|spaces)/([^/@]+/[^/@]+)(?:@(refs/(?:convert|pr)/[^/]+|[^/]+))?/(.+)", re.DOTALL
)


class AccessError(WinnowError):
  """An error of finding, reading or writing a file at the moment, which says nothing about the file's content."""


def upload(file: IO[bytes], path: str) -> bool:
  """Uploads a finished file; returns False if the name exists. Only GCS notices a concurrent writer."""
  file.seek(0)
  if path.startswith(HUB):
    raise WinnowError("hf:// can be read only; write to a folder, or to gs://")
  if not path.startswith(GCS):
    with file_system(path).create(path, compression_type=as_stored()) as target:
      shutil.copyfileobj(file, target, COPY_BYTES)
    return True
  from google.api_core import exceptions

  try:
    blob(path).upload_from_file(file, if_generation_match=0, checksum="crc32c")
  except exceptions.PreconditionFailed:
    return False
  return True


def as_stored() -> str:
  """Returns Beam's word for bytes that are neither compressed nor decompressed."""
  from apache_beam.io import filesystem

  return filesystem.CompressionTypes.UNCOMPRESSED


def beam_options():
  """Returns Beam's options as set in the launcher and in every worker; they select the credentials."""
  from apache_beam.io import filesystems

  return filesystems.FileSystems._pipeline_options or _no_options()


@functools.cache
def _no_options():
  from apache_beam.options import pipeline_options

  return pipeline_options.PipelineOptions([])


def file_system(path: str) -> "filesystem.FileSystem":
  """Returns Beam's file system of a path once its store has answered; raises AccessError as `reach` does."""
  reach(path)
  if path.startswith(S3):
    from pipelines.files import shared_s3

    return shared_s3.S3FileSystem(beam_options())
  from apache_beam.io import filesystems

  return filesystems.FileSystems.get_filesystem(path)


def is_known(path: str) -> bool:
  """Tells whether a path's scheme has a file system, ours or Beam's."""
  if path.startswith((GCS, HUB, S3)) or "://" not in path:
    return True
  from apache_beam.io import filesystems

  try:
    filesystems.FileSystems.get_filesystem(path)
  except ValueError:
    return False
  return True


def reach(path: str) -> None:
  """Raises AccessError if this process has no credentials for the store of a path, or if the store does not exist.

  Beam itself would retry for minutes.
  """
  scheme, separator, rest = path.partition("://")
  bucket = rest.partition("/")[0]
  if scheme + separator == GCS:
    _reach_gcs(bucket)
  elif scheme + separator == S3:
    _reach_s3(bucket)


@functools.cache
def _reach_gcs(bucket: str) -> None:
  from google.api_core import exceptions
  from google.cloud.storage import retry

  with access_errors(f"cannot reach {GCS}{bucket}"):
    try:
      gcs_client().bucket(bucket).exists(retry=retry.DEFAULT_RETRY.with_timeout(_REACH_SECONDS))
    except Exception as error:
      # Any answer will do: objects may be readable although their bucket is not, and a busy server is retried later.
      if _lacks_credentials(error) or isinstance(getattr(error, "cause", error), exceptions.GoogleAPICallError):
        return
      if isinstance(error, exceptions.RetryError):
        raise AccessError(
          f"cannot reach {GCS}{bucket}: nobody answered for {_REACH_SECONDS:.0f} s; check the network and the proxy"
        ) from error
      raise


def _lacks_credentials(error: object) -> bool:
  """Tells whether Google's client was asked for credentials and has none."""
  from google.auth import exceptions

  return isinstance(error, exceptions.InvalidOperation)


@functools.cache
def _reach_s3(bucket: str) -> None:
  from apache_beam.options import pipeline_options

  from pipelines.files import shared_s3

  if shared_s3.boto3_client.boto3 is None:
    return  # Beam's own error says what to install
  with access_errors(f"cannot reach {S3}{bucket}"):
    options = beam_options()
    is_given = options.view_as(pipeline_options.S3Options).s3_access_key_id is not None
    if not is_given and shared_s3.boto3_client.boto3.session.Session().get_credentials() is None:
      raise AccessError(f"{S3}{bucket} cannot be used: {_NO_AWS}")
    client = shared_s3.client(options).client
    with contextlib.suppress(client.exceptions.ClientError):  # any answer will do
      client.head_bucket(Bucket=bucket)


@functools.cache
def gcs_client():
  """Returns Google's storage client, one for the process."""
  from apache_beam.io.gcp import gcsio

  _settle_google_credentials()
  return gcsio.create_storage_client(beam_options())  # anonymous where there are no credentials


def _settle_google_credentials() -> None:
  """Looks for Google's credentials once. Beam looks five times, for 20 s, before it continues without any.

  Raises AccessError if GOOGLE_APPLICATION_CREDENTIALS names a file without credentials.
  """
  import google.auth
  from apache_beam.internal.gcp import auth
  from apache_beam.options import pipeline_options

  held = getattr(auth, "_Credentials", None)  # private to Beam; a later version without it searches in its own way
  if held is None or held._credentials_init or auth.is_running_in_gce:
    return
  if not os.environ.get(_EMULATOR) and not beam_options().view_as(pipeline_options.GoogleCloudOptions).no_auth:
    try:
      google.auth.default()
      return
    except google.auth.exceptions.DefaultCredentialsError as error:
      if named := os.environ.get("GOOGLE_APPLICATION_CREDENTIALS"):
        raise AccessError(f"GOOGLE_APPLICATION_CREDENTIALS={named} holds no credentials ({error})") from error
      os.environ["NO_GCE_CHECK"] = "true"  # so that workers of this process do not probe for a Google machine again
  held._credentials_init = True


def refuse_unwritable(path: str) -> None:
  """Raises AccessError if it is known in advance that nothing can be written below a path on a store."""
  if path.startswith(GCS) and not os.environ.get(_EMULATOR) and _is_anonymous():
    raise AccessError(f"{path} cannot be written: {_NO_GOOGLE}")


def _is_anonymous() -> bool:
  from apache_beam.internal.gcp import auth

  gcs_client()
  return auth.get_service_credentials(beam_options()) is None


def hub():
  """Returns a file system of the Hugging Face hub."""
  import huggingface_hub  # slow to import

  return huggingface_hub.HfFileSystem(endpoint=os.environ.get("HF_ENDPOINT"))


def hub_path(path: str) -> str:
  """Returns a path or a pattern on the hub, relative to its repository."""
  return _split_hub_path(path)[3]


def _split_hub_path(path: str) -> tuple[str, str, str | None, str]:
  """Splits a path into the kind, name and revision of its repository, and the path below."""
  match = _HUB_REPOSITORY.fullmatch(path)
  if match is None:
    raise WinnowError(f"{path} names no files of a repository; write hf://datasets/OWNER/NAME/PATH, or NAME@REVISION")
  kind, repository, revision, rest = match.groups()
  return kind, repository, revision, rest


def match_hub(pattern: str) -> list[tuple[str, int]]:
  """Returns the files (path, bytes) that match a glob, pinned to the current commit: a branch may move during a job."""
  import huggingface_hub

  kind, repository, revision, rest = _split_hub_path(pattern)
  with access_errors(f"cannot list {pattern}"):
    api = huggingface_hub.HfApi(endpoint=os.environ.get("HF_ENDPOINT"))
    commit = api.repo_info(repository, revision=revision, repo_type=kind.removesuffix("s")).sha
    entries = hub().glob(f"{kind}/{repository}@{commit}/{rest}", detail=True)
  return sorted((HUB + name, entry["size"]) for name, entry in entries.items() if entry["type"] == "file")


def blob(path: str):
  """Returns Google's handle of the object at a path; raises AccessError as `reach` does."""
  bucket, _, name = path.removeprefix(GCS).partition("/")
  _reach_gcs(bucket)
  return gcs_client().bucket(bucket).blob(name)


class RemoteFile(io.BufferedIOBase):
  """A file on a store, opened for reading, whose errors are those of `read_errors`."""

  def __init__(self, file: Any, path: str):
    self._file, self._path = file, path

  def readable(self) -> bool:
    return True

  def seekable(self) -> bool:
    return True

  def read(self, size: int | None = -1) -> bytes:
    with read_errors(self._path):
      return self._file.read(-1 if size is None else size)

  def readinto(self, buffer: Any) -> int:
    data = self.read(len(buffer))
    buffer[: len(data)] = data
    return len(data)

  def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
    with read_errors(self._path):
      self._file.seek(offset, whence)
      return self._file.tell()

  def tell(self) -> int:
    return self._file.tell()

  def close(self) -> None:
    self._file.close()
    super().close()


@contextlib.contextmanager
def read_errors(path: str) -> Iterator[None]:
  """Turns errors of reading a file into AccessError, and a store's "not found" into FileNotFoundError."""
  with access_errors(f"cannot read {path}"):
    try:
      yield
    except Exception as error:
      if getattr(error, "code", None) == HTTPStatus.NOT_FOUND:  # set by Google's client and by Beam's for s3
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path) from error
      raise


@contextlib.contextmanager
def access_errors(what: str) -> Iterator[None]:
  """Turns the errors of any file system into an AccessError of one sentence: `what` failed, why, and what to do."""
  try:
    yield
  except (WinnowError, FileNotFoundError):
    raise
  except Exception as error:
    inner: Any = error
    while details := getattr(inner, "exception_details", None):  # Beam's errors by path, which may be nested
      inner = next(iter(details.values()))
    system_message = inner.strerror if isinstance(inner, OSError) else None
    cause = str(system_message or inner).strip() or type(inner).__name__
    cause, advice = cause.splitlines()[0], _advice(inner)
    raise AccessError(f"{what}: {cause.rstrip('.') if advice else cause}{advice}") from error


def _advice(error: object) -> str:
  """Returns advice for a user whom a store does not let in, or an empty string."""
  library = type(error).__module__.partition(".")[0]
  if library == "huggingface_hub":
    status = getattr(getattr(error, "response", None), "status_code", None)
    # The hub hides private repositories from everybody else: they are "not found".
    denied = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND)
    return "; check the name, or log in with hf auth login (or HF_TOKEN) if it is private" * (status in denied)
  is_denied = getattr(error, "code", None) in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)
  if library == "google" and (_lacks_credentials(error) or (is_denied and _is_anonymous())):
    return f"; {_NO_GOOGLE}"
  if not is_denied:
    return ""
  return "; grant these credentials the permission, or use others"
