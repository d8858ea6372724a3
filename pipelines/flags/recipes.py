"""Recipes: flags and their values in YAML, for a whole command or for each of its stages.

Values are taken as they are written, as on a command line: 0512 is no octal number and 2024_01 no integer.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from curation.errors import WinnowError
from pipelines.files import storage
from pipelines.flags import recipe_files

STAGES = "stages"
_MAX_BYTES = 1 << 16
_YAML = "tag:yaml.org,2002:"
_PLAIN = tuple(_YAML + name for name in ("str", "int", "float", "bool", "timestamp", "value"))
_TRUTHS = {"true": "true", "yes": "true", "on": "true", "false": "false", "no": "false", "off": "false"}


class Value(NamedTuple):
  """The value of a flag in a recipe, as it is written there."""

  where: str
  text: str

  def truth(self) -> str:
    """Returns 'true' or 'false', or '' for an empty value, of a boolean flag. Raises WinnowError for other values."""
    if self.text and self.text.lower() not in _TRUTHS:
      raise WinnowError(f"{self.where} is {self.text[:80]!r}; write true or false")
    return _TRUTHS.get(self.text.lower(), "")


def read(recipe: str) -> tuple[dict[str, Value], list[dict[str, Value]]]:
  """Reads a recipe: the flags of all stages, and those of each.

  `recipe` is the path of a file, the name of a recipe that comes with Winnow, or a recipe itself, which starts with a
  brace. Raises WinnowError if it is none of these.
  """
  import yaml

  name = "--recipe={...}" if is_inline(recipe) else f"--recipe={recipe}"
  try:
    data = recipe.encode() if is_inline(recipe) else storage.read_bytes(recipe_files.find(recipe))
    loader = yaml.SafeLoader(data) if len(data) <= _MAX_BYTES else None
    root = loader and loader.get_single_node()
    if not isinstance(root, yaml.MappingNode):
      raise WinnowError(f"{name} is no recipe: write lines of FLAG: VALUE, in YAML")
    entries = _entries(name, loader, root)
    stages = entries.pop(STAGES, None)
    maps = stages.value if isinstance(stages, yaml.SequenceNode) else []
    if stages is not None and not (maps and all(isinstance(stage, yaml.MappingNode) for stage in maps)):
      raise WinnowError(f"{name}: {STAGES} is no list of stages, each of them lines of FLAG: VALUE")
    stage_entries = [_entries(name, loader, stage) for stage in maps]
    if any(STAGES in each for each in stage_entries):
      raise WinnowError(f"{name}: a stage has {STAGES!r}, which is no flag of one; write one list of stages")
    stage_values = [_values(name, each) for each in stage_entries]
    return _values(name, entries), stage_values or [{}]
  except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
    cause = " ".join(str(error).split())
    raise WinnowError(f"{name} cannot be read: {cause}") from error


def is_inline(recipe: str) -> bool:
  """Tells whether the value of --recipe is a recipe itself, in place of its file."""
  return recipe.startswith("{")


def inline(stages: Sequence[Mapping[str, Any]]) -> str:
  """Writes a recipe, the flags and values of each stage, as text that `read` takes."""
  written = [{name: value if value is True else str(value) for name, value in stage.items()} for stage in stages]
  text = json.dumps({STAGES: written}, ensure_ascii=False)
  # YAML takes these for line ends, or not at all.
  return re.sub("[\x7f-\x9f\u2028\u2029\ufeff]", lambda match: f"\\u{ord(match[0]):04x}", text)


def _entries(name: str, loader: Any, mapping: Any) -> dict[str, Any]:
  """Returns the nodes of a mapping by their keys, as they are written."""
  keys = [str(key.value) for key, _ in mapping.value]
  if twice := next((key for key in keys if keys.count(key) > 1), None):
    raise WinnowError(f"{name} has {twice[:80]} twice; leave one of them out")
  loader.flatten_mapping(mapping)  # takes in what `<<` names
  return {str(key.value): node for key, node in mapping.value}


def _values(name: str, entries: Mapping[str, Any]) -> dict[str, Value]:
  values = {}
  for key, node in entries.items():
    where = f"{name}: {key[:80]}"
    if node.tag == _YAML + "null":
      raise WinnowError(
        f"{where} has no value; write one, in quotes if it is {node.value or 'null'!r}, or leave it out"
      )
    if node.tag not in _PLAIN:
      raise WinnowError(f"{where} is no text, number, true or false; write one value behind it")
    values[key] = Value(where, node.value)
  return values
