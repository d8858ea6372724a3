"""Manifests of `winnow launch` beside the schemas that Kubernetes and its operator for Flink publish."""

import copy
import json
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import engines
import jsonschema
import pytest
import yaml

from pipelines import main

pytestmark = pytest.mark.long
SCHEMAS = engines.ENGINES / "schemas"
VERSIONS = ("1.28.0", "1.33.0", "1.37.0")  # of Kubernetes
_VALIDATE = """
import { readFileSync } from "node:fs";
const { validate } = await import(process.argv[1]);
for (const each of JSON.parse(readFileSync(0))) console.log(JSON.stringify(validate(each) ? [] : validate.errors));
"""
BUCKET = ["--input=gs://b/*.jsonl", "--scores=gs://b/scores"]
SCORE = ["--", "score", "--model=org/model", *BUCKET]
SAMPLE = ["--", "sample", "--scores=gs://b/scores", "--sampler=ask_llm", "--rate=0.2", "--output=gs://b/best"]
EVERYTHING = ["--parts=4", "--image=winnow", "--gpus_per_task=1", "--volume=claim:/data", "--service_account=me"]


@pytest.fixture(scope="module", autouse=True)
def schemas() -> None:
  if not SCHEMAS.is_dir() or shutil.which("node") is None:
    engines.missing("schemas", f"{SCHEMAS} is not here: `make test-all` installs it, with Node.js")


def launch(capsys, *argv: str) -> dict[str, Any]:
  assert main.main(["launch", *argv]) == 0
  return yaml.safe_load(capsys.readouterr().out)


def errors_of_kubernetes(manifest: dict[str, Any], version: str, kind: str = "job-batch-v1") -> list[str]:
  """Returns what the schema of a version says, which knows all fields and refuses others."""
  folder = SCHEMAS / f"kubernetes_validate/kubernetes-json-schema/v{version}-local-strict"
  text = (folder / f"{kind}.json").read_text().replace("/api/_definitions.json#", "#")
  schema = json.loads(text) | {"$defs": json.loads((folder / "_definitions.json").read_text())["$defs"]}
  schema.pop("$id", None)
  return [error.message for error in jsonschema.Draft202012Validator(schema).iter_errors(manifest)]


@pytest.mark.parametrize("version", VERSIONS)
def test_the_job_is_one_by_the_schema_of_kubernetes(capsys, version):
  """Kills: a field that is misspelt, in a wrong place, of a wrong type or of another version."""
  for argv in ([*EVERYTHING, "--hours=5", *SCORE, *SAMPLE], ["--parts=1", "--image=winnow", *SAMPLE]):
    manifest = launch(capsys, "k8s", *argv)
    assert not errors_of_kubernetes(manifest, version)
  for place, value in ((["spec", "complet1ons"], 4), (["spec", "template", "spec", "containers"], "winnow")):
    broken = copy.deepcopy(manifest)
    node = broken
    for key in place[:-1]:
      node = node[key]
    node[place[-1]] = value
    assert errors_of_kubernetes(broken, version)


def flink_errors(manifests: list[dict[str, Any]]) -> list[list[dict]]:
  module = SCHEMAS / "node_modules/@kubernetes-models/flink/_schemas/FlinkApacheOrgV1beta1FlinkDeployment.js"
  done = subprocess.run(
    ["node", "--input-type=module", "--eval", _VALIDATE, str(module)],
    input=json.dumps(manifests),
    capture_output=True,
    text=True,
    check=True,
  )
  return [json.loads(line) for line in done.stdout.splitlines()]


def with_each_field_wrong(manifest: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
  """Yields copies of a manifest, each with a value that no field takes in one of its fields."""

  def walk(node: Any, path: list[Any]) -> Iterator[list[Any]]:
    for key, value in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
      yield [*path, key]
      yield from walk(value, [*path, key])

  for path in walk(manifest, []):
    broken = copy.deepcopy(manifest)
    node = broken
    for key in path[:-1]:
      node = node[key]
    node[path[-1]] = [[]]
    yield ".".join(map(str, path)), broken


def test_the_flink_deployment_is_one_by_the_operators_schema(capsys):
  """Kills: a field that the operator does not know, which its schema would take in silence, or of a wrong type."""
  manifest = launch(capsys, "flink", *EVERYTHING, *SCORE, *SAMPLE)
  assert flink_errors([manifest]) == [[]]
  names, broken = zip(*with_each_field_wrong(manifest), strict=True)
  taken = {name for name, errors in zip(names, flink_errors(list(broken)), strict=True) if not errors}
  assert {name for name in taken if not name.startswith("spec.flinkConfiguration")} == set()  # which is Flink's own
  for version in VERSIONS:
    pod = manifest["spec"]["taskManager"]["podTemplate"]
    assert not errors_of_kubernetes({"apiVersion": "v1", "kind": "Pod", **pod}, version, "pod-v1")
