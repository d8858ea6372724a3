"""Fingerprints of requests. A folder belongs to one request; any other is refused, with the field that differs."""

import hashlib
import re
from typing import Any

import orjson

from curation.errors import WinnowError
from pipelines.files import storage

REQUEST_FILE = "request.json"
ENGINE_FILE = "engine.json"
ADVICE = "choose another name or folder, or start over with --overwrite"
_SEAL = "seal"
# A digest alone says nothing to a reader, so messages describe it, by the last part of its field's name.
_DIGESTS = {
  "scores": "the request for the scores: scorer, model, prompt, limits and input",
  "embeddings": "the request for the embeddings: model, limits, dtype and input",
  "clusters": "the request for the clusters: embeddings, number, sample, iterations and seed",
  "signatures": "the request for the signatures: the input",
  "survivors": "the selection of the earlier stages",
  "centroids": "the trained centroids",
  "hashes": "the sketch's projections",
  "fingerprint": "the whole request",
  "method": "the request without its input",
  "checksum": "the file's content",
}
_DIGEST = re.compile(r"([a-z0-9]+:)?[0-9a-f]{8,}")
_ABSENT = object()


def to_json(value: object) -> bytes:
  """Returns canonical JSON, whose bytes depend on the value alone: sorted keys, two spaces, a newline at the end."""
  options = orjson.OPT_SORT_KEYS | orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE | orjson.OPT_NON_STR_KEYS
  return orjson.dumps(value, option=options)


def fingerprint(request: object) -> str:
  """Returns the fingerprint of a JSON value: 32 hex digits of BLAKE2b."""
  return hashlib.blake2b(to_json(request), digest_size=16).hexdigest()


def sealed(value: dict[str, Any]) -> bytes:
  """Returns the JSON of an object together with its own fingerprint, for `read_sealed`."""
  return to_json(value | {_SEAL: fingerprint(value)})


def read_sealed(path: str) -> dict[str, Any] | None:
  """Returns the object of a file with `sealed` content; None if the file is missing or is not as it was written."""
  value = read_json_or_none(path)
  if not isinstance(value, dict):
    return None
  seal = value.pop(_SEAL, None)
  return value if seal == fingerprint(value) else None


def read_json(path: str) -> Any:
  """Returns the JSON value in a file of ours; raises WinnowError if the file is missing or does not parse."""
  try:
    return orjson.loads(storage.read_bytes(path))
  except (FileNotFoundError, NotADirectoryError) as error:
    raise WinnowError(f"{path} is missing: the folder is incomplete; run its command again to finish it") from error
  except orjson.JSONDecodeError as error:
    raise WinnowError(f"{path} is not readable JSON ({error}); restore it, or start over with --overwrite") from error


def read_json_or_none(path: str) -> Any:
  """Returns the JSON value in a file of ours; None if the file is missing or damaged.

  Raises AccessError if the file cannot be read.
  """
  try:
    return read_json(path)
  except storage.AccessError:
    raise
  except WinnowError:
    return None


def field(path: str, name: str) -> Any:
  """Returns one field of the JSON object in a file; None if the file is missing or damaged, or has no such field."""
  value = read_json_or_none(path)
  return value.get(name) if isinstance(value, dict) else None


def refuse_other(path: str, request: dict[str, Any], *, owner: str, advice: str = ADVICE) -> None:
  """Raises WinnowError that names the first field that differs if the file at `path` holds another request."""
  if not storage.exists(path):
    return
  if difference := first_difference(read_json(path), as_read(request)):
    field, known, wanted = difference
    raise WinnowError(f"{owner} belongs to another request: {field} is {known} there and {wanted} now; {advice}")


def as_read(value: object) -> Any:
  """Returns the value as it comes back from its JSON: tuples as lists, keys as strings."""
  return orjson.loads(to_json(value))


def holds(path: str, wanted: str) -> bool:
  """Tells whether the file at `path` holds the request with this fingerprint."""
  return fingerprint(read_json_or_none(path)) == wanted


def claim(path: str, request: dict[str, Any], *, owner: str, advice: str = ADVICE) -> None:
  """Makes the folder of `path` belong to `request`; raises WinnowError if it belongs to another request.

  Safe between workers: the first writer wins, and every writer compares its request with the one that was written.
  """
  storage.create(path, to_json(request))
  refuse_other(path, request, owner=owner, advice=advice)


def first_difference(known: object, wanted: object, field: str = "") -> tuple[str, str, str] | None:
  """Returns the first field in which two JSON values differ, with both values shortened; None if they are equal.

  Fields are compared depth first, in sorted order. A digest comes with a description of what was digested.
  """
  if isinstance(known, dict) and isinstance(wanted, dict):
    keys = sorted(known.keys() | wanted.keys())
    pairs = [(key, known.get(key, _ABSENT), wanted.get(key, _ABSENT)) for key in keys]
  elif isinstance(known, list) and isinstance(wanted, list) and len(known) == len(wanted):
    pairs = [(_label(item, index), item, other) for index, (item, other) in enumerate(zip(known, wanted, strict=True))]
  elif isinstance(known, list) and isinstance(wanted, list):
    return field, f"a list of {len(known)}", f"a list of {len(wanted)}"
  else:
    if type(known) is type(wanted) and known == wanted:
      return None
    digested = _DIGESTS.get(field.rpartition(".")[2])
    note = f" (a digest of {digested})" if digested and _is_digest(known) and _is_digest(wanted) else ""
    return field, f"{_short(known)}{note}", _short(wanted)
  for key, item, other in pairs:
    if difference := first_difference(item, other, f"{field}.{key}" if field else str(key)):
      return difference
  return None


def _is_digest(value: object) -> bool:
  return isinstance(value, str) and _DIGEST.fullmatch(value) is not None


def _label(item: object, index: int) -> str:
  return item["name"] if isinstance(item, dict) and "name" in item else str(index)


def _short(value: object) -> str:
  if value is _ABSENT:
    return "absent"
  text = orjson.dumps(value).decode()
  return text if len(text) <= 60 else text[:57] + "..."
