"""Files on S3, against moto's server: one client a process, one stream a file."""

import buckets
import pytest
from apache_beam.io import filesystems
from apache_beam.options import pipeline_options

from pipelines.files import object_stores, shared_s3, storage


@pytest.fixture
def bucket(monkeypatch):
  with buckets.emulated_s3(monkeypatch) as endpoint:
    options = pipeline_options.PipelineOptions([f"--s3_endpoint_url={endpoint}"])
    monkeypatch.setattr(filesystems.FileSystems, "_pipeline_options", options)
    object_stores._reach_s3.cache_clear()
    yield "s3://winnow"


def test_all_operations_share_one_client(bucket, monkeypatch):
  """Kills: a client for each operation, which takes a tenth of a second."""
  made = []
  session = pytest.importorskip("boto3.session").Session  # which Beam's own extra brings
  make = session.client

  def counted(*arguments, **keywords):
    made.append(arguments)
    return make(*arguments, **keywords)

  monkeypatch.setattr(session, "client", counted)
  path = f"{bucket}/folder/a.txt"
  storage.create(path, b"stone")
  storage.create(path, b"river")
  assert storage.find(f"{bucket}/*/*.txt") == [(path, 5)]
  assert storage.size(path) == 5
  assert storage.read_bytes(path) == b"stone"
  assert storage.version(path).startswith("s3:")
  assert list(storage.list_times(f"{bucket}/**")) == [path]
  storage.delete([path, path])
  assert not storage.exists(path)
  assert len(made) == 1


def test_files_that_are_read_in_turns_are_each_asked_for_once(bucket):
  """Kills: one stream for all files, which begins again at every turn, and which two threads would break."""
  piece = 16 << 20  # what Beam reads at once
  paths = [f"{bucket}/{name}" for name in "ab"]
  for path in paths:
    storage.create(path, path.encode() * (piece * 2 // len(path)))
  asked = []
  client = shared_s3.client(object_stores.beam_options()).client
  client.meta.events.register("before-call.s3.GetObject", lambda **_: asked.append(1))
  files = [storage.open_input(path) for path in paths]
  for _ in range(2):
    for file, path in zip(files, paths, strict=True):
      assert path.encode() in file.read(piece)
  assert len(asked) == 2


def test_names_with_wildcards_are_deleted(bucket):
  """Kills: names that are escaped for a store that takes them as they are, so that nothing is deleted."""
  paths = [f"{bucket}/a[1].txt", f"{bucket}/b*?.txt", f"{bucket}/b*c.txt"]
  for path in paths:
    storage.create(path, b"stone")
  storage.delete([*paths[:2], f"{bucket}/none"])
  assert [path for path in paths if storage.exists(path)] == paths[2:]


def test_other_options_have_a_client_of_their_own(bucket):
  """Kills: a client that stays when the next command names another endpoint."""
  for endpoint in ("http://127.0.0.1:9", "http://127.0.0.1:10"):
    options = pipeline_options.PipelineOptions([f"--s3_endpoint_url={endpoint}"])
    assert shared_s3.client(options).client.meta.endpoint_url == endpoint
