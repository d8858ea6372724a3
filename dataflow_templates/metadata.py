"""Writes every template's metadata.json, which tells a console what to ask for, from the declaration of the flags.

python -m dataflow_templates.metadata
"""

import json
import pathlib
from typing import Any

from pipelines.flags import declarations
from pipelines.registry import command_names
from pipelines.registry.flag import GROUPS, Flag

FOLDER = pathlib.Path(__file__).parent
TEMPLATES = (
  command_names.EMBED,
  command_names.CLUSTER,
  command_names.SCORE,
  command_names.SAMPLE,
  command_names.CURATE,
)
_FOLDERS = ("scores", "output")
# A launcher that starts no job has failed, and Dataflow divides the work itself.
_TERMINAL_ONLY = ("estimate", "part", "part_timeout", "part_steal")


def metadata(command: str) -> dict[str, Any]:
  """Returns a command as google.dataflow.v1beta3.TemplateMetadata in JSON."""
  known = [flag for flag in declarations.FLAGS if command in flag.commands and flag.name not in _TERMINAL_ONLY]
  in_order = [flag for group in GROUPS for flag in known if flag.group == group]
  names = {flag.name for flag in known}
  return {
    "name": f"Winnow: {command}",
    "description": f"{_sentence(command_names.COMMANDS[command])} Flags and files: docs/reference.md of Winnow.",
    "parameters": [parameter(flag, command, "scorer" in names) for flag in in_order],
  }


def parameter(flag: Flag, command: str, has_scorer: bool) -> dict[str, Any]:
  """Returns one flag as google.dataflow.v1beta3.ParameterMetadata in JSON."""
  fields: dict[str, Any] = {
    "name": flag.name,
    "label": flag.name.replace("_", " ").capitalize(),
    "helpText": _sentence(flag.help_in(command)),
    "groupName": flag.group,
    "isOptional": command not in flag.required,
    "paramType": _type(flag, command),
  }
  if flag.choices:
    fields["enumOptions"] = [{"value": choice, "label": choice.replace("_", " ")} for choice in flag.choices]
  if flag.pattern:
    fields["regexes"] = [f"^({flag.pattern})$"]
  if flag.default is not None:
    fields["defaultValue"] = str(flag.default).lower() if flag.type is bool else str(flag.default)
  if flag.scorers and has_scorer:
    fields |= {"parentName": "scorer", "parentTriggerValues": list(flag.scorers)}
  return fields


def _type(flag: Flag, command: str) -> str:
  if flag.choices:
    return "ENUM"
  if flag.name in _FOLDERS:
    return "GCS_READ_FOLDER" if (command, flag.name) == (command_names.SAMPLE, "scores") else "GCS_WRITE_FOLDER"
  if flag.name in ("prompt_file", "vocabulary"):
    return "GCS_READ_FILE"
  return {bool: "BOOLEAN", int: "NUMBER", float: "NUMBER"}.get(flag.type, "TEXT")


def _sentence(text: str) -> str:
  return text[0].upper() + text[1:] + "."


def to_json(command: str) -> str:
  """Returns the content of a command's metadata.json."""
  return json.dumps(metadata(command), indent=2) + "\n"


if __name__ == "__main__":
  for template in TEMPLATES:
    (FOLDER / template / "metadata.json").write_text(to_json(template))
