"""Beam's own options, which every command takes beside its flags."""

import argparse
import functools
import importlib.util
import pathlib
import re
import sys

from curation.errors import WinnowError

_MODULE = "options/pipeline_options.py"
_NAME = re.compile(r"""["'](--[\w-]+)["']""")


@functools.cache
def named() -> frozenset[str]:
  """Returns the names of Beam's own options, such as `--runner`, and perhaps more, by the text of its module.

  To import the module takes a thousand times as long.
  """
  spec = importlib.util.find_spec("apache_beam")
  (folder,) = (spec.submodule_search_locations if spec else None) or [""]
  return frozenset(_NAME.findall(pathlib.Path(folder, _MODULE).read_text()))


def certainly_unknown(arguments: list[str]) -> list[str]:
  """Returns options that Beam does not take, perhaps not all of them, without an import of Beam."""
  if "apache_beam" in sys.modules:  # a package that brings a scorer has imported it, and may have added options
    return unknown(arguments)
  names = {argument: argument.partition("=")[0] for argument in arguments if re.match(r"--\w", argument)}
  return [argument for argument, name in names.items() if name not in named()]


def unknown(arguments: list[str]) -> list[str]:
  """Returns the arguments that Beam does not take. Raises WinnowError for an option with a value that it refuses."""
  try:
    return parser().parse_known_args(arguments)[1]
  except argparse.ArgumentError as error:
    raise WinnowError(f"{error} (an option of Beam's)") from error


def parser() -> argparse.ArgumentParser:
  """Returns a parser of all options that Beam has in this process."""
  from apache_beam.options import pipeline_options

  made = argparse.ArgumentParser(allow_abbrev=False, add_help=False, exit_on_error=False)
  for options in _subclasses(pipeline_options.PipelineOptions):
    if add_arguments := vars(options).get("_add_argparse_args"):
      add_arguments.__get__(None, options)(made)
  return made


def _subclasses(base: type) -> list[type]:
  descendants: list[type] = []
  subclasses: list[type] = type.__subclasses__(base)
  for subclass in subclasses:
    descendants += [subclass, *_subclasses(subclass)]
  return descendants
