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

GCS, HUB, S3 = "gs://", "hf://", "s3://"
COPY_BYTES = 4 << 20
_REACH_SECONDS = 10.0  # what a bucket may take to answer at first; later requests are tried for minutes
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
  """A file could not be looked for, read or written just now: that tells nothing of what it holds."""


def upload(file: IO[bytes], path: str) -> bool:
  """Uploads a finished file; False where the name exists, which GCS alone tells of a writer at the same moment."""
  file.seek(0)
  if path.startswith(HUB):
    raise WinnowError("hf:// can be read only; write to a folder, or to gs://")
  if not path.startswith(GCS):
    with file_systems(path).create(path, compression_type=filesystem.CompressionTypes.UNCOMPRESSED) as target:
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


def file_systems(path: str) -> type[filesystems.FileSystems]:
  """Beam's file systems, for a path whose store has answered; raises AccessError as `reach` does."""
  reach(path)
  return filesystems.FileSystems


def is_known(path: str) -> bool:
  """Tells whether there is a file system for a path's scheme, Beam's among them."""
  if path.startswith((GCS, HUB, S3)) or "://" not in path:
    return True
  try:
    filesystems.FileSystems.get_filesystem(path)
  except ValueError:
    return False
  return True


def reach(path: str) -> None:
  """Raises AccessError where this process has no credentials for a path's store, or the store is not there.

  Beam asks for minutes where nobody can answer.
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
      # Any answer will do. Objects may be read where their bucket may not be looked at, and who is busy is asked again.
      if _is_strangers(error) or isinstance(getattr(error, "cause", error), exceptions.GoogleAPICallError):
        return
      if isinstance(error, exceptions.RetryError):
        raise AccessError(
          f"cannot reach {GCS}{bucket}: nobody answered for {_REACH_SECONDS:.0f} s; check the network and the proxy"
        ) from error
      raise


def _is_strangers(error: Any) -> bool:
  """Tells whether Google's client was asked to log in and has no credentials."""
  from google.auth import exceptions

  return isinstance(error, exceptions.InvalidOperation)


@functools.cache
def _reach_s3(bucket: str) -> None:
  from apache_beam.io.aws.clients.s3 import boto3_client
  from apache_beam.options import pipeline_options

  if boto3_client.boto3 is None:
    return  # Beam says what to install
  with access_errors(f"cannot reach {S3}{bucket}"):
    options = beam_options()
    is_given = options.view_as(pipeline_options.S3Options).s3_access_key_id is not None
    if not is_given and boto3_client.boto3.session.Session().get_credentials() is None:
      raise AccessError(f"{S3}{bucket} cannot be used: {_NO_AWS}")
    client = boto3_client.Client(options).client
    with contextlib.suppress(client.exceptions.ClientError):  # any answer will do
      client.head_bucket(Bucket=bucket)


@functools.cache
def gcs_client():
  from apache_beam.io.gcp import gcsio

  _settle_google_credentials()
  return gcsio.create_storage_client(beam_options())  # anonymous where there are no credentials


def _settle_google_credentials() -> None:
  """Looks once for Google's credentials. Beam looks five times, for 20 s, before it goes on without any.

  Raises AccessError where GOOGLE_APPLICATION_CREDENTIALS names none.
  """
  import google.auth
  from apache_beam.internal.gcp import auth
  from apache_beam.options import pipeline_options

  held = getattr(auth, "_Credentials", None)  # Beam's own; where a later one has none, it looks as it does
  if held is None or held._credentials_init or auth.is_running_in_gce:
    return
  if not os.environ.get(_EMULATOR) and not beam_options().view_as(pipeline_options.GoogleCloudOptions).no_auth:
    try:
      google.auth.default()
      return
    except google.auth.exceptions.DefaultCredentialsError as error:
      if named := os.environ.get("GOOGLE_APPLICATION_CREDENTIALS"):
        raise AccessError(f"GOOGLE_APPLICATION_CREDENTIALS={named} holds no credentials ({error})") from error
      os.environ["NO_GCE_CHECK"] = "true"  # workers of this process need not look for Google's machines again
  held._credentials_init = True


def refuse_unwritable(path: str) -> None:
  """Raises AccessError where it is known beforehand that nothing can be written below a path on a store."""
  if path.startswith(GCS) and not os.environ.get(_EMULATOR) and _is_anonymous():
    raise AccessError(f"{path} cannot be written: {_NO_GOOGLE}")


def _is_anonymous() -> bool:
  from apache_beam.internal.gcp import auth

  gcs_client()
  return auth.get_service_credentials(beam_options()) is None


def hub():
  import huggingface_hub  # which takes a while

  return huggingface_hub.HfFileSystem(endpoint=os.environ.get("HF_ENDPOINT"))


def hub_path(path: str) -> str:
  """A path on the hub, or the pattern of one, below its repository."""
  return _of_hub(path)[3]


def _of_hub(path: str) -> tuple[str, str, str | None, str]:
  """Kind, repository, revision and path below it."""
  found = _HUB_REPOSITORY.fullmatch(path)
  if found is None:
    raise WinnowError(f"{path} names no files of a repository; write hf://datasets/OWNER/NAME/PATH, or NAME@REVISION")
  kind, repository, revision, rest = found.groups()
  return kind, repository, revision, rest


def match_hub(pattern: str) -> list[tuple[str, int]]:
  """The files that a glob names, by the commit that they are of now: a branch may move while a job runs."""
  import huggingface_hub

  kind, repository, revision, rest = _of_hub(pattern)
  with access_errors(f"cannot list {pattern}"):
    api = huggingface_hub.HfApi(endpoint=os.environ.get("HF_ENDPOINT"))
    commit = api.repo_info(repository, revision=revision, repo_type=kind.removesuffix("s")).sha
    entries = hub().glob(f"{kind}/{repository}@{commit}/{rest}", detail=True)
  return sorted((HUB + name, about["size"]) for name, about in entries.items() if about["type"] == "file")


def blob(path: str):
  bucket, _, name = path.removeprefix(GCS).partition("/")
  _reach_gcs(bucket)
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
  """`told` of reading; FileNotFoundError where a store says that there is no such file."""
  with access_errors(f"cannot read {path}"):
    try:
      yield
    except Exception as error:
      if getattr(error, "code", None) == HTTPStatus.NOT_FOUND:  # Google's client and Beam's for s3 say it so
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path) from error
      raise


@contextlib.contextmanager
def access_errors(what: str) -> Iterator[None]:
  """Tells failures of other people's file systems, each of which has errors of its own, in one sentence."""
  try:
    yield
  except (WinnowError, FileNotFoundError):
    raise
  except Exception as error:
    inner: Any = error
    while details := getattr(inner, "exception_details", None):  # Beam's, by path, each perhaps such a one again
      inner = next(iter(details.values()))
    of_system = inner.strerror if isinstance(inner, OSError) else None
    cause = str(of_system or inner).strip() or type(inner).__name__
    cause, advice = cause.splitlines()[0], _advice(inner)
    raise AccessError(f"{what}: {cause.rstrip('.') if advice else cause}{advice}") from error


def _advice(error: Any) -> str:
  """What a user can do where a store does not let this one in."""
  library = type(error).__module__.partition(".")[0]
  if library == "huggingface_hub":
    status = getattr(getattr(error, "response", None), "status_code", None)
    # The hub does not tell strangers which private repositories there are.
    denied = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND)
    return "; check the name, or log in with hf auth login (or HF_TOKEN) if it is private" * (status in denied)
  is_denied = getattr(error, "code", None) in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)
  if library == "google" and (_is_strangers(error) or (is_denied and _is_anonymous())):
    return f"; {_NO_GOOGLE}"
  if not is_denied:
    return ""
  return "; grant these credentials the permission, or use others"
