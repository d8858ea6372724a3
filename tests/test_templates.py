"""Flex Templates: what a console is told is what the parser takes, and the image is what the lock says."""

import json
import os
import pathlib
import re
import runpy
import subprocess
import sys

import pytest
from google.cloud import dataflow_v1beta3
from google.protobuf import json_format

from curation.errors import WinnowError
from dataflow_templates import metadata
from pipelines.flags import declarations, parsing

FOLDER = metadata.FOLDER
PROJECT = FOLDER.parent
BUCKET_FLAGS = ["--project=winnow-test", "--region=us-central1", "--temp_location=gs://winnow/tmp", "--no_auth"]


@pytest.fixture(params=metadata.TEMPLATES)
def command(request) -> str:
  return request.param


def parameters(command: str) -> list[dict]:
  return json.loads((FOLDER / command / "metadata.json").read_text())["parameters"]


def versions(lock: pathlib.Path) -> dict[str, str]:
  return dict(re.findall(r"^([a-z0-9-]+)==(\S+)", lock.read_text(), re.MULTILINE))


def test_metadata_is_what_the_flags_say(command):
  """Kills the mutant that adds a flag and tells no console: `python -m dataflow_templates.metadata` writes it."""
  assert (FOLDER / command / "metadata.json").read_text() == metadata.to_json(command)
  known = {flag.name for flag in declarations.FLAGS if command in flag.commands}
  assert [p["name"] for p in parameters(command)] == list(dict.fromkeys(p["name"] for p in parameters(command)))
  assert {p["name"] for p in parameters(command)} == known - {"estimate", "part", "part_timeout", "part_steal"}


def test_metadata_is_of_the_published_schema(command):
  """google.dataflow.v1beta3.TemplateMetadata knows every field and every value of an enum."""
  text = (FOLDER / command / "metadata.json").read_text()
  message = dataflow_v1beta3.TemplateMetadata.pb(dataflow_v1beta3.TemplateMetadata())
  json_format.Parse(text, message)
  with pytest.raises(json_format.ParseError, match="no field named"):
    json_format.Parse(text.replace('"helpText"', '"help"', 1), message)


def test_parents_defaults_and_patterns_fit_together(command):
  """Kills the mutants: a default that its own pattern refuses; a parent that the template does not have."""
  by_name = {p["name"]: p for p in parameters(command)}
  for parameter in by_name.values():
    if parent := parameter.get("parentName"):
      choices = {option["value"] for option in by_name[parent]["enumOptions"]}
      assert set(parameter["parentTriggerValues"]) <= choices
    default = parameter.get("defaultValue")
    if "enumOptions" in parameter and default is not None:
      assert default in {option["value"] for option in parameter["enumOptions"]}
    for pattern in parameter.get("regexes", ()):
      assert default is None or re.search(pattern, default)
    assert parameter["isOptional"] or default is None
    assert parameter["label"] and parameter["helpText"].endswith(".")


@pytest.mark.parametrize(
  ("name", "good", "bad"),
  [
    ("input", ["gs://b/c4-*.json.gz", "tfds:c4/en:3.1.0"], ["c4.json", ""]),
    ("scores", ["gs://bucket-1/scores"], ["gs://Bucket/s", "/data/scores", "gs://bucket"]),
    ("model", ["gs://b/m", "google/flan-t5-xl", "google/flan-t5-xl@main"], ["/home/model", "a/b/c"]),
    ("rate", ["0.2", ".2", "1", "1.0"], ["0", "1.5", "20%"]),
    ("name", ["flan_t5"], ["flan-t5", "a/b"]),
  ],
)
def test_patterns_take_what_the_command_takes(name, good, bad):
  (flag,) = [flag for flag in declarations.FLAGS if flag.name == name]
  assert all(re.search(f"^({flag.pattern})$", value) for value in good)
  assert not any(re.search(f"^({flag.pattern})$", value) for value in bad)


def test_what_is_not_optional_is_what_the_command_asks_for(command):
  """Kills the mutant that demands of a console what the command can do without, or the other way round."""
  wanted = {p["name"] for p in parameters(command) if not p["isOptional"]}
  given = {name: f"--{name}={'random' if name == 'sampler' else 'gs://b/x'}" for name in wanted}
  parsing.parse(command, list(given.values()))
  for name in wanted:
    with pytest.raises(WinnowError, match=f"--{name}= must be given"):
      parsing.parse(command, [value for other, value in given.items() if other != name])


def test_a_console_may_say_true_false_and_nothing():
  namespace, _ = parsing.parse("embed", ["--input=x", "--scores=s", "--overwrite=true", "--name=", "--block_rows="])
  assert (namespace.overwrite, namespace.name, namespace.block_rows) == (True, None, 4096)
  assert not parsing.parse("embed", ["--input=x", "--scores=s", "--overwrite=false"])[0].overwrite
  with pytest.raises(WinnowError, match="--overwrite=yes is neither"):
    parsing.parse("embed", ["--input=x", "--scores=s", "--overwrite=yes"])


def test_a_main_launches_its_command_as_the_launcher_does(bucket, command, monkeypatch, capsys):
  """Of the image the workers' own is taken. Kills the mutant main that passes no exit status on."""
  monkeypatch.setenv("WINNOW_IMAGE", "example.com/winnow:1")
  given = ["--input=gs://winnow/nothing/*", "--scores=gs://winnow/s", "--name=", "--model=gs://winnow/m"]
  others = {
    "sample": ["--sampler=random", "--output=gs://winnow/o", "--rate=0.2"],
    "curate": ["--output=gs://winnow/o"],
    "cluster": ["--embeddings=gs://winnow/e"],
  }
  known = {flag.name for flag in declarations.FLAGS if command in flag.commands}
  own = [flag for flag in given if flag[2:].split("=")[0] in known] + others.get(command, [])
  monkeypatch.setattr(sys, "argv", ["main.py", "--runner=DataflowRunner", *BUCKET_FLAGS, *own])
  with pytest.raises(SystemExit) as ended:
    runpy.run_path(str(FOLDER / command / "main.py"), run_name="__main__")
  assert ended.value.code == 2
  told = capsys.readouterr().err
  expected = (
    "gs://winnow/nothing/* matches no file",
    "gs://winnow/s holds no score stores",
    "gs://winnow/e is no store",
  )
  assert any(words in told for words in expected), told


def test_the_image_has_the_beam_and_the_versions_of_the_lock():
  """Kills the mutant that upgrades the lock and not the image."""
  lock = versions(PROJECT / "requirements.lock")
  assert f"ARG BEAM={lock['apache-beam']}\n" in (FOLDER / "Dockerfile").read_text()
  for accelerator in ("cpu", "gpu", "tpu"):
    image = versions(FOLDER / f"requirements-{accelerator}.lock")
    assert {"apache-beam", "jax", "uv", "setuptools"} <= image.keys()
    assert {name: lock[name] for name in image.keys() & lock.keys()} == {
      n: image[n] for n in image.keys() & lock.keys()
    }
    others = {"cpu": "", "gpu": "jax-cuda12-plugin", "tpu": "libtpu"}
    assert {name for name in others.values() if name in image} == {others[accelerator]} - {""}


def test_the_dockerfile_passes_its_linter():
  linted = subprocess.run(
    [os.path.join(os.path.dirname(sys.executable), "hadolint"), "--ignore=DL3007", str(FOLDER / "Dockerfile")],
    capture_output=True,
    text=True,
  )
  assert (linted.returncode, linted.stdout) == (0, "")


@pytest.mark.parametrize("docker", ["docker", "cloud"])
def test_the_build_script_asks_for_one_image_and_its_template(docker, command, tmp_path):
  """Neither Docker nor an account is here: what the script would have them do is written down."""
  for program in ("docker", "gcloud"):
    script = (
      f'#!/bin/bash\necho {program} "$@" >> {tmp_path}/asked\n[ "$3" != --config ] || cat "$4" >> {tmp_path}/asked\n'
    )
    (tmp_path / program).write_text(script)
    (tmp_path / program).chmod(0o755)
  environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "DOCKER": docker}
  build = [str(FOLDER / "build"), command, "region-docker.pkg.dev/p/winnow", "bucket", "gpu"]
  printed = subprocess.run(build, env=environment, check=True, capture_output=True, text=True).stdout.strip()
  asked = (tmp_path / "asked").read_text()
  assert printed.startswith(f"region-docker.pkg.dev/p/winnow/winnow-{command}-gpu:")
  assert f"flex-template build gs://bucket/winnow/{command}-gpu.json --image {printed} --sdk-language PYTHON" in asked
  assert all(f"{argument}" in asked for argument in ("ACCELERATOR=gpu", f"COMMAND={command}", f"IMAGE={printed}"))
  refused = subprocess.run([*build[:1], "demo", *build[2:]], env=environment, capture_output=True, text=True)
  assert refused.returncode == 2 and "demo is no template" in refused.stderr
