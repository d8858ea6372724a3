"""A bucket of an emulator of Google Cloud Storage in this process, which other processes reach too."""

import contextlib
import os
from collections.abc import Iterator

from apache_beam.internal.gcp import auth
from gcp_storage_emulator import server

from pipelines.files import object_stores, storage

_HOST = "STORAGE_EMULATOR_HOST"


@contextlib.contextmanager
def emulated() -> Iterator[str]:
  """The bucket's address; this process's clients ask the emulator, and those of its children with `--no_auth`."""
  emulator = server.create_server("localhost", 0, in_memory=True, default_bucket="winnow")
  emulator.start()
  before = os.environ.get(_HOST), auth._Credentials._credentials_init
  os.environ[_HOST] = f"http://localhost:{emulator._api._httpd.server_address[1]}"
  auth._Credentials._credentials_init = True  # as Beam finds out here by itself in 20 s: there are no credentials
  object_stores.gcs_client.cache_clear()
  try:
    yield "gs://winnow"
  finally:
    if before[0] is None:
      del os.environ[_HOST]
    else:
      os.environ[_HOST] = before[0]
    auth._Credentials._credentials_init = before[1]
    emulator.stop()
    object_stores.gcs_client.cache_clear()


def content(folder: str) -> dict[str, bytes]:
  """Every object below a run's folder but its logs, as `running.content` has it of a disk."""
  paths = [path for path, _ in storage.match(f"{folder}/**") if "/log/" not in path]
  return {path.removeprefix(f"{folder}/"): storage.read_bytes(path) for path in paths}
