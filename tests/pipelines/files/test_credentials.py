"""Object stores that refuse this user or do not exist: refused at once, in one sentence, with nothing written."""

import http.server
import json
import threading

import google.auth
import pytest
from apache_beam.internal.gcp import auth
from google.auth import exceptions as auth_exceptions
from running import run_in

from pipelines.files import object_stores, storage

NO_AWS, NO_GOOGLE = "there are no AWS credentials here", "there are no Google credentials here"
LOCAL = ["--input=a.jsonl", "--direct_num_workers=1"]
COMMANDS = {
  "input": ["sample", "--sampler=random", "--rate=0.5", "--output=out", "--input={}/c4/*.jsonl"],
  "scores": ["score", "--scorer=minhash", *LOCAL, "--scores={}/scores"],
  "stored scores": ["sample", "--sampler=ask_llm", "--rate=0.5", "--output=out", "--scores={}/scores"],
  "output": ["sample", "--sampler=random", "--rate=0.5", *LOCAL, "--output={}/out"],
  "model": ["score", "--scores=scores", *LOCAL, "--model={}/model"],
  "recipe": ["curate", "--recipe={}/recipe.yaml"],
  "embeddings": ["embed", "--scores=scores", *LOCAL, "--embeddings={}/made/*.npy"],
  "verify": ["verify", "{}/out"],
  "status": ["status", "{}/scores"],
}


@pytest.fixture
def no_credentials(monkeypatch, tmp_path):
  """Removes all credentials from this process, and keeps it from looking for them on a network."""
  for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "GOOGLE_APPLICATION_CREDENTIALS"):
    monkeypatch.delenv(name, raising=False)
  for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE", "CLOUDSDK_CONFIG"):
    monkeypatch.setenv(name, str(tmp_path / "nowhere"))
  monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
  monkeypatch.setenv("NO_GCE_CHECK", "true")
  monkeypatch.setattr(auth._Credentials, "_credentials_init", False)
  monkeypatch.setattr(auth._Credentials, "_credentials", None)
  object_stores.gcs_client.cache_clear()
  object_stores._reach_gcs.cache_clear()
  object_stores._reach_s3.cache_clear()
  yield
  object_stores.gcs_client.cache_clear()


@pytest.fixture
def private(no_credentials, monkeypatch):
  """Serves Google's answers about a private bucket to a user without credentials; gives the requested paths."""
  asked = []

  class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
      asked.append(self.path)
      body = json.dumps({"error": {"code": 401, "message": "Anonymous caller does not have access"}}).encode()
      self.send_response(401)
      self.send_header("Content-Type", "application/json")
      self.send_header("Content-Length", str(len(body)))
      self.end_headers()
      self.wfile.write(body)

    do_POST = do_GET

    def log_message(self, *_):
      pass

  server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
  threading.Thread(target=server.serve_forever, daemon=True).start()
  monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{server.server_address[1]}")
  yield asked
  server.shutdown()
  server.server_close()


def assert_refused(folder, command: list[str], capsys, message: str) -> None:
  folder.mkdir()
  (folder / "a.jsonl").write_text('{"text": "the river"}\n')
  before = set(folder.rglob("*"))
  assert run_in(folder, command) == 2
  error = capsys.readouterr().err
  assert message in error and len(error.splitlines()) == 1 and error.startswith("winnow: ")
  assert set(folder.rglob("*")) == before


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_s3_without_credentials_is_refused_at_once(no_credentials, command, tmp_path, capsys):
  """Kills the mutant that lets Beam look for them, which takes nine minutes."""
  command = [word.format("s3://private/x") for word in command]
  assert_refused(tmp_path / "here", command, capsys, f"s3://private cannot be used: {NO_AWS}")


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_a_private_bucket_of_google_is_refused_to_a_stranger(private, command, tmp_path, capsys):
  """Kills the mutant that repeats the message of the store without any advice."""
  command = [word.format("gs://private/x") for word in command]
  assert_refused(tmp_path / "here", command, capsys, f"; {NO_GOOGLE}")
  assert len(private) <= 3


def test_a_stranger_writes_to_no_bucket_of_google(no_credentials, monkeypatch):
  """A user without credentials cannot claim even a bucket that everybody may read."""
  monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
  with pytest.raises(storage.AccessError, match=f"gs://public/out cannot be written: {NO_GOOGLE}"):
    storage.refuse_unwritable("gs://public/out")


def test_google_credentials_are_looked_for_once(no_credentials, monkeypatch):
  """Kills the mutant that leaves the search to Beam, which looks five times, for 20 s, in each process."""
  looked = []

  def default(**_):
    looked.append(1)
    raise auth_exceptions.DefaultCredentialsError("there are none")

  monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
  monkeypatch.setattr(google.auth, "default", default)
  object_stores.gcs_client()
  assert auth.get_service_credentials(object_stores.beam_options()) is None
  assert looked == [1]


def test_a_key_file_that_is_not_there_is_no_stranger(no_credentials, monkeypatch, tmp_path):
  """Kills the mutant that continues without credentials although the user has named some."""
  monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
  monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "key.json"))
  with pytest.raises(storage.AccessError, match=r"GOOGLE_APPLICATION_CREDENTIALS=.*key\.json holds no credentials"):
    storage.match("gs://private/*")


def test_a_service_that_is_not_there_is_told_soon(no_credentials, monkeypatch, tmp_path, capsys):
  """Kills the mutant that leaves it to Beam, which retries for minutes."""
  monkeypatch.setattr(object_stores, "_REACH_SECONDS", 0.1)
  monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:9")
  command = ["sample", "--sampler=random", "--rate=0.5", "--output=out"]
  assert_refused(tmp_path / "gs", [*command, "--input=gs://private/*.jsonl"], capsys, "cannot reach gs://private: ")
  monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
  monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
  monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
  command = [*command, "--input=s3://private/*.jsonl", "--s3_endpoint_url=http://127.0.0.1:9"]
  assert_refused(tmp_path / "s3", command, capsys, "cannot reach s3://private: Could not connect to the endpoint URL")


@pytest.mark.parametrize("name", ["s3", "gs", "hf"])
def test_a_folder_called_like_a_scheme_is_local(tmp_path, no_credentials, name):
  """Kills the mutant that takes a path without :// for a bucket."""
  (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": f"stone {row}"}) + "\n" for row in range(20)))
  assert run_in(tmp_path, ["sample", "--sampler=random", "--rate=0.5", *LOCAL, f"--output={name}"]) == 0
  assert (tmp_path / name / "manifest.json").exists()
