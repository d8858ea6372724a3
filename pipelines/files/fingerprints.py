"""Fingerprints: a folder belongs to one request, and another one is refused by the name of the field that differs."""

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
# Digests tell nobody what differs, so they are told with what they are of, by the last part of their field's name.
_DIGESTS = {
  "scores": "what the scores were asked for: scorer, model, prompt, limits and input",
  "embeddings": "what the store of embeddings was asked for: model, limits, dtype and input",
  "clusters": "what the store of clusters was asked for: embeddings, number, sample, iterations and seed",
  "signatures": "what the store of signatures was asked for: its input",
  "survivors": "what the earlier stages selected",
  "centroids": "the centroids that were trained",
  "hashes": "the sketch's projections",
  "fingerprint": "all that was asked for",
  "method": "what was asked for, but for the input",
  "checksum": "the file's content",
}
_DIGEST = re.compile(r"([a-z0-9]+:)?[0-9a-f]{8,}")
_ABSENT = object()


def to_json(value: Any) -> bytes:
  """JSON whose bytes follow from the value alone: sorted keys, two spaces, a newline at the end."""
  options = orjson.OPT_SORT_KEYS | orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE | orjson.OPT_NON_STR_KEYS
  return orjson.dumps(value, option=options)


def fingerprint(request: Any) -> str:
  """32 hex digits (BLAKE2b) of a JSON value."""
  return hashlib.blake2b(to_json(request), digest_size=16).hexdigest()


def sealed(value: dict[str, Any]) -> bytes:
  """`to_json` of an object with its own fingerprint, for `read_sealed`."""
  return to_json(value | {_SEAL: fingerprint(value)})


def read_sealed(path: str) -> dict[str, Any] | None:
  """The object that `sealed` wrote into a file; None where it is missing or not as written."""
  value = read_json_or_none(path)
  if not isinstance(value, dict):
    return None
  seal = value.pop(_SEAL, None)
  return value if seal == fingerprint(value) else None


def read_json(path: str) -> Any:
  """The JSON value in a file of ours; WinnowError if it is not there or does not parse."""
  try:
    return orjson.loads(storage.read_bytes(path))
  except (FileNotFoundError, NotADirectoryError) as error:
    raise WinnowError(f"{path} is missing: the folder is incomplete; run its command again to finish it") from error
  except orjson.JSONDecodeError as error:
    raise WinnowError(f"{path} is not readable JSON ({error}); restore it, or start over with --overwrite") from error


def read_json_or_none(path: str) -> Any:
  """The JSON value in a file of ours; None where it is missing or damaged. A file that cannot be read is an error."""
  try:
    return read_json(path)
  except storage.AccessError:
    raise
  except WinnowError:
    return None


def field(path: str, name: str) -> Any:
  """One field of the JSON object in a file; None where the file is missing or damaged, or has no such field."""
  value = read_json_or_none(path)
  return value.get(name) if isinstance(value, dict) else None


def refuse_other(path: str, request: dict[str, Any], *, owner: str, advice: str = ADVICE) -> None:
  """Raises WinnowError, naming the first field that differs, if the file at `path` holds another request."""
  if not storage.exists(path):
    return
  if difference := first_difference(read_json(path), as_read(request)):
    field, there, here = difference
    raise WinnowError(f"{owner} belongs to another request: {field} is {there} there and {here} now; {advice}")


def as_read(value: Any) -> Any:
  """The value as it is read from the JSON that it is written as."""
  return orjson.loads(to_json(value))


def holds(path: str, wanted: str) -> bool:
  """Tells whether the file at `path` holds the request with this fingerprint."""
  return fingerprint(read_json_or_none(path)) == wanted


def claim(path: str, request: dict[str, Any], *, owner: str, advice: str = ADVICE) -> None:
  """Makes the folder of `path` belong to `request`, or raises WinnowError if it belongs to another.

  Safe between workers: the first writer wins, and everybody compares with what was written.
  """
  storage.create(path, to_json(request))
  refuse_other(path, request, owner=owner, advice=advice)


def first_difference(known: Any, wanted: Any, field: str = "") -> tuple[str, str, str] | None:
  """The first field, depth first in sorted order, in which two JSON values differ, with both values shortened.

  The value of a digest comes with what it is a digest of.
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
    of = _DIGESTS.get(field.rpartition(".")[2])
    told = f" (a digest of {of})" if of and _is_digest(known) and _is_digest(wanted) else ""
    return field, f"{_short(known)}{told}", _short(wanted)
  for key, item, other in pairs:
    if difference := first_difference(item, other, f"{field}.{key}" if field else str(key)):
      return difference
  return None


def _is_digest(value: Any) -> bool:
  return isinstance(value, str) and _DIGEST.fullmatch(value) is not None


def _label(item: Any, index: int) -> str:
  return item["name"] if isinstance(item, dict) and "name" in item else str(index)


def _short(value: Any) -> str:
  if value is _ABSENT:
    return "absent"
  text = orjson.dumps(value).decode()
  return text if len(text) <= 60 else text[:57] + "..."
