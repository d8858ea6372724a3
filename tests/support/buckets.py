"""Buckets of emulators of Google Cloud Storage and S3 in this process, which other processes reach too."""

import contextlib
import os
import urllib.request
from collections.abc import Iterator

import pytest
from apache_beam.internal.gcp import auth
from gcp_storage_emulator import server
from moto import server as moto_server

from pipelines.files import object_stores, storage

_HOST = "STORAGE_EMULATOR_HOST"


@contextlib.contextmanager
def emulated() -> Iterator[str]:
  """Yields the bucket's address; clients of this process ask the emulator, and with `--no_auth` its children's too."""
  emulator = server.create_server("localhost", 0, in_memory=True, default_bucket="winnow")
  emulator.start()
  before = os.environ.get(_HOST), auth._Credentials._credentials_init
  os.environ[_HOST] = f"http://localhost:{emulator._api._httpd.server_address[1]}"
  auth._Credentials._credentials_init = True  # there are no credentials, which Beam takes 20 s to find out
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


@contextlib.contextmanager
def emulated_s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
  """Yields the endpoint of a store with an empty bucket, `s3://winnow`; children have its credentials too."""
  monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
  monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
  monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
  emulator = moto_server.ThreadedMotoServer("127.0.0.1", 0)
  emulator.start()
  host, port = emulator.get_host_and_port()
  endpoint = f"http://{host}:{port}"
  for path, method in (("moto-api/reset", "POST"), ("winnow", "PUT")):
    urllib.request.urlopen(urllib.request.Request(f"{endpoint}/{path}", method=method)).close()
  yield endpoint
  emulator.stop()


def content(folder: str) -> dict[str, bytes]:
  """Returns every object below a run's folder except its logs, as `running.content` does for a disk."""
  paths = [path for path, _ in storage.match(f"{folder}/**") if "/log/" not in path]
  return {path.removeprefix(f"{folder}/"): storage.read_bytes(path) for path in paths}
