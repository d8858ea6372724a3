"""The parser of command lines: Winnow's flags, as `declarations` has them, and Beam's options after them."""

import argparse
import difflib
import numbers
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from curation.errors import WinnowError
from pipelines.files import storage
from pipelines.flags import beam_options, recipes
from pipelines.flags.declarations import FLAGS
from pipelines.registry.command_names import COMMANDS, LAUNCH
from pipelines.registry.examples import EXAMPLES
from pipelines.registry.flag import GROUPS, Flag, require
from pipelines.scorers.registry import RANDOM

SEPARATOR = "--"
"""Stands before each of the commands that `winnow launch` is for."""
_LAUNCHED = f"{SEPARATOR} COMMAND [flags] [{SEPARATOR} COMMAND [flags]] ..."
_OTHERS = "Each COMMAND is given without `winnow`. They run one after another."
_MOST_STAGES = 8
_MOST_NAMED = 3  # scorers that the help of a flag names; what is for more is of models
_BEAM = "Every Beam option (--runner, --direct_num_workers, --temp_location, ...) is\naccepted as well."
_LAST_STAGE_FLAGS = (
  *("name", "sampler", "method", "temperature", "rate", "num_examples", "num_tokens", "threshold", "percentile_range"),
  *("group_by", "group_rate", "group_max", "rejected"),
)
_COMMON_FLAGS = (  # for all stages, or for the last one: no stage may have its own
  *("input", "text_field", "url_field", "timestamp_field", "tfds_data_dir", "max_zstd_window", "block_rows"),
  *("max_bad_fraction", "scores", "overwrite", "accelerator", "estimate", "output", "dataset_name", "output_format"),
  *("num_shards", "rejected", "part", "part_timeout", "part_steal"),
)
_MODEL_FLAGS = ("model", "vocabulary", "embeddings")  # random sampling needs none of them
_AMOUNTS = ("rate", "num_examples", "num_tokens", "threshold", "percentile_range")
_PART_FLAGS = ("part", "part_timeout", "part_steal")
_RUN_FLAGS = ("recipe", "accelerator", "estimate", "overwrite", "max_zstd_window", *_PART_FLAGS)  # not in the request
_READING_FLAGS = ("text_field", "url_field", "timestamp_field", "block_rows", "max_bad_fraction")


class _Parser(argparse.ArgumentParser):
  def error(self, message: str) -> NoReturn:
    raise WinnowError(f"{message}; see {self.prog} --help")


def parse(command: str, argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
  """Splits a command line into Winnow's flags and Beam's. Raises WinnowError for what is neither."""
  (*others, last), beam_arguments = parse_stages(command, argv)
  if others:
    raise WinnowError(f"--recipe={last.recipe} has several stages, and this command takes one")
  return last, beam_arguments


def from_settings(command: str, settings: Mapping[str, Any]) -> argparse.Namespace:
  """Returns a command's flags by settings of the same names; None stands for one that is not given.

  Raises WinnowError for a name that is no flag of the command, and for what the command would refuse.
  """
  known = {flag.name for flag in FLAGS if command in flag.commands and not flag.positional}
  known -= {"estimate", *_PART_FLAGS}
  arguments = []
  for name, value in settings.items():
    if name not in known:
      near = difflib.get_close_matches(name, known, 1)
      hint = f"did you mean {near[0]}?" if near else f"settings are called as the flags of winnow {command}"
      raise WinnowError(f"there is no setting {name}; {hint}")
    if not isinstance(value, str | pathlib.Path | numbers.Real | None):
      raise WinnowError(f"{name}={value!r} is no text, number, true or false")
    if value is not None and value is not False:
      arguments.append(f"--{name}" if value is True else f"--{name}={value}")
  return parse(command, arguments)[0]


def parse_stages(command: str, argv: Sequence[str]) -> tuple[list[argparse.Namespace], list[str]]:
  """Splits a command line for each stage of a recipe, in order: for one where there are no stages, or no recipe.

  Flags on the command line override those of the recipe, in every stage to which they mean anything. Those that say
  what is selected and how it is written are for the last stage alone.
  """
  own, parser, arguments = _prepared(command, argv)
  namespace, others = parser.parse_known_args(arguments)
  _refuse_unknown(command, beam_options.unknown(others))
  recipe = getattr(namespace, "recipe", None)
  common, stages = ([], [[]]) if recipe is None else _recipe_arguments(recipe, own)
  if len(stages) == 1:
    return [_parse_stage(command, parser, [*common, *stages[0]], arguments, is_last=True)], others
  if any(argument.startswith("--scorer=") for argument in arguments):
    raise WinnowError(f"--recipe={recipe} has stages, which say their scorers: leave --scorer out")
  namespaces = []
  for place, stage in enumerate(stages):
    is_last = place == len(stages) - 1
    is_meant = _meant_for(own, parser.parse_known_args([*common, *stage])[0], is_last=is_last)
    given, typed = [*filter(is_meant, common), *stage], list(filter(is_meant, arguments))
    namespaces.append(_parse_stage(command, parser, given, typed, is_last=is_last))
  return namespaces, others


def answer_early(command: str, argv: Sequence[str]) -> None:
  """Prints the help and exits if it is asked for; raises WinnowError for flags that the command cannot take.

  It takes a tenth of the time of importing what runs the command.
  """
  _, parser, arguments = _prepared(command, argv)
  namespace, others = parser.parse_known_args(arguments)
  _refuse_unknown(command, beam_options.certainly_unknown(others))
  if getattr(namespace, "recipe", None) is None:  # which may give what is missing
    _parse_stage(command, parser, [], arguments, is_last=True)


def normalised(command: str, argv: Sequence[str]) -> list[str]:
  """Returns a command line with each flag and its value in one argument."""
  return _prepared(command, argv)[2]


def _prepared(command: str, argv: Sequence[str]) -> tuple[list[Flag], argparse.ArgumentParser, list[str]]:
  """Returns a command's own flags, their parser, and the arguments as it takes them."""
  own = [flag for flag in FLAGS if command in flag.commands]
  for argument in argv:
    storage.refuse_undecodable(argument)
  if command == LAUNCH and SEPARATOR in argv:  # what follows belongs to other commands
    argv = argv[: argv.index(SEPARATOR)]
  return own, _parser(command, own), _normalised(own, argv)


def _parser(command: str, own: Sequence[Flag]) -> argparse.ArgumentParser:
  """Returns the parser of a command's own flags, in their groups."""
  positionals = [flag.name.upper() for flag in own if flag.positional]
  others, more = (_LAUNCHED, _OTHERS) if command == LAUNCH else ("[Beam options]", _BEAM)
  parser = _Parser(
    prog=f"winnow {command}",
    usage=" ".join(["winnow", command, *positionals, "[flags]", others]),
    description=COMMANDS[command],
    epilog="\n".join([more, "", "Examples:", *(f"  {line}" for line in _example_lines(command))]),
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  has_scorer = any(flag.name == "scorer" for flag in own)
  for group in GROUPS:
    if members := [flag for flag in own if flag.group == group]:
      is_shared = len({flag.scorers for flag in members}) == 1
      titled = parser.add_argument_group(group, _for_scorers(members[0].scorers) if has_scorer and is_shared else None)
      for flag in members:
        action = flag.add_to(titled, command)
        if has_scorer and not is_shared and 0 < len(flag.scorers) <= _MOST_NAMED:
          action.help = f"{action.help} ({_for_scorers(flag.scorers)})"
  return parser


def _for_scorers(scorers: Sequence[str]) -> str | None:
  """Says for which values of --scorer a flag is; None if it is for all."""
  return f"for --scorer={', '.join(scorers)}" if scorers else None


def _example_lines(command: str) -> list[str]:
  return [line for example in EXAMPLES[command] for line in example.shown()]


def _parse_stage(
  command: str, parser: argparse.ArgumentParser, given: list[str], typed: list[str], *, is_last: bool
) -> argparse.Namespace:
  """Parses the arguments of one stage: those that its recipe gives, and those on the command line, which override."""
  if is_last and _names(typed) & set(_AMOUNTS):  # one amount takes the place of another
    given = [argument for argument in given if not _names([argument]) & set(_AMOUNTS)]
  namespace, _ = parser.parse_known_args([*given, *typed])
  namespace.given = _names([*given, *typed])
  _refuse_other_scorers(command, namespace)
  require(namespace, *(flag.name for flag in FLAGS if command in flag.required))
  return namespace


def _names(arguments: Sequence[str]) -> set[str]:
  return {argument.partition("=")[0].removeprefix("--") for argument in arguments}


def _meant_for(own: Sequence[Flag], stage: argparse.Namespace, *, is_last: bool) -> Callable[[str], bool]:
  """Returns a test of whether an argument for all stages means anything to the one whose own flags are `stage`."""
  flags = {f"--{flag.name}": flag for flag in own}

  def is_meant(argument: str) -> bool:
    flag = flags.get(argument.partition("=")[0])
    if flag is None:
      return True
    if stage.sampler == RANDOM and flag.name in _MODEL_FLAGS:
      return False
    is_of_scorer = not flag.scorers or stage.scorer in flag.scorers
    return is_of_scorer and (is_last or flag.name not in _LAST_STAGE_FLAGS)

  return is_meant


def _refuse_other_scorers(command: str, namespace: argparse.Namespace) -> None:
  scorer = getattr(namespace, "scorer", None)
  for flag in FLAGS:
    given = command in flag.commands and flag.is_given(getattr(namespace, flag.name))
    if given and scorer is not None and flag.scorers and scorer not in flag.scorers:
      wanted = " or ".join(flag.scorers)
      raise WinnowError(f"--{flag.name} is for --scorer={wanted}, and this is --scorer={scorer}; leave it out")


def _recipe_arguments(path: str, own: Sequence[Flag]) -> tuple[list[str], list[list[str]]]:
  """Reads a recipe, a YAML mapping of flags to values, and returns the arguments for all stages and those of each."""
  recipe, stages = recipes.read(path)
  if len(stages) > _MOST_STAGES:
    raise WinnowError(f"--recipe={path} has {len(stages)} stages, and {_MOST_STAGES} are the most that one job takes")
  for name in [name for stage in stages for name in stage if name in _COMMON_FLAGS]:
    raise WinnowError(
      f"--recipe={path}: {name} is no flag of one stage; write it above {recipes.STAGES}, for all of them"
    )
  return _mapping_arguments(path, recipe, own), [_mapping_arguments(path, stage, own) for stage in stages]


def _mapping_arguments(path: str, recipe: Mapping[str, recipes.Value], own: Sequence[Flag]) -> list[str]:
  known = {flag.name: flag for flag in own if flag.name != "recipe" and not flag.positional}
  arguments = []
  for name, value in recipe.items():
    if name not in known:
      near = difflib.get_close_matches(name, known, 1)
      hint = f"; did you mean {near[0]}?" if near else ""
      raise WinnowError(f"--recipe={path} has {name[:80]!r}, which is no flag of this command{hint}")
    arguments.append(f"--{name}={value.truth() if known[name].type is bool else value.text}")
  return _normalised(own, arguments)


def _normalised(own: Sequence[Flag], argv: Sequence[str]) -> list[str]:
  """Returns the arguments as a parser takes them, a flag and its value in one argument.

  A console writes --overwrite=true, and --name= for what is not given.
  """
  by_name = {f"--{flag.name}": flag for flag in own}
  arguments: list[str] = []
  rest = list(argv)
  while rest:
    argument = rest.pop(0)
    name, equals, value = argument.partition("=")
    flag = by_name.get(name)
    if flag is not None and not equals and flag.type is not bool and rest and not rest[0].startswith("--"):
      value, equals = rest.pop(0), "="
      argument = f"{name}={value}"
    if flag is None or not equals:
      arguments.append(argument)
    elif flag.type is bool and value.lower() not in ("true", "false", ""):
      raise WinnowError(f"{argument} is neither {name}=true nor {name}=false")
    elif flag.type is bool and value.lower() == "true":
      arguments.append(name)
    elif flag.type is not bool and value:
      arguments.append(argument)
  return arguments


def adopt(namespace: argparse.Namespace, request: Mapping[str, Any], names: Sequence[str]) -> list[str]:
  """Sets flags that nobody gave to the values that a store was made with, to use it as it is, and returns them."""
  adopted = [n for n in names if n in request and n not in namespace.given and request[n] != getattr(namespace, n)]
  for name in adopted:
    setattr(namespace, name, request[name])
  return [f"--{name}={request[name]}" for name in adopted]


def own_arguments(command: str, stages: Sequence[argparse.Namespace]) -> list[str]:
  """Returns an equal command line of Winnow's own flags alone, in order, without those at their defaults.

  It needs no recipe file: several stages are written out in `--recipe` itself.
  """
  if len(stages) == 1:
    return ["winnow", command, *_arguments(_given(stages[0]))]
  stage_flags = [{n: value for n, value in _given(stage).items() if n not in _COMMON_FLAGS} for stage in stages]
  common_flags = {name: value for name, value in _given(stages[-1]).items() if name in _COMMON_FLAGS}
  return ["winnow", command, f"--recipe={recipes.inline(stage_flags)}", *_arguments(common_flags)]


def _given(namespace: argparse.Namespace) -> dict[str, Any]:
  given = {flag.name: getattr(namespace, flag.name, None) for flag in FLAGS if flag.name not in _RUN_FLAGS}
  return {flag.name: given[flag.name] for flag in FLAGS if flag.name in given and flag.is_given(given[flag.name])}


def _arguments(given: Mapping[str, Any]) -> list[str]:
  return [f"--{name}" if value is True else f"--{name}={value}" for name, value in given.items()]


def refuse_scoring_flags(namespace: argparse.Namespace) -> None:
  """Raises WinnowError for flags that say how documents are read: the score store has settled that already."""
  for flag in FLAGS:
    if flag.name in _READING_FLAGS and getattr(namespace, flag.name) != flag.default:
      raise WinnowError(f"--{flag.name} was settled when --scores was made; leave it out")


def reference() -> str:
  """Returns a part of docs/reference.md: every command, two examples of each, and every flag, in Markdown."""
  lines = ["| command | what it does |", "|---|---|"]
  lines += [f"| `winnow {name}` | {text} |" for name, text in COMMANDS.items()]
  for name in COMMANDS:
    lines += ["", f"`winnow {name}`:", "", *(f"    {line}" for line in _example_lines(name))]
  lines += ["", "| flag | commands (**bold** where it is required) | default | what it is |", "|---|---|---|---|"]
  for flag in FLAGS:
    default = "" if flag.default is None or flag.type is bool else f"`{flag.default}`"
    choices = f"; one of {', '.join(f'`{choice}`' for choice in flag.choices)}" if flag.choices else ""
    shown = flag.name.upper() if flag.positional else f"--{flag.name}"
    for text in dict.fromkeys(map(flag.help_in, flag.commands)):
      commands = [
        f"**{name}**" if name in flag.required else name for name in flag.commands if flag.help_in(name) == text
      ]
      lines.append(f"| `{shown}` | {', '.join(commands)} | {default} | {text}{choices} |")
  return "\n".join(lines) + "\n"


def _refuse_unknown(command: str, unknown: Sequence[str]) -> None:
  """Raises WinnowError for the first of the arguments that are neither Winnow's nor Beam's, if there is any."""
  if not unknown:
    return
  name = unknown[0].split("=")[0]
  if name.startswith("--dask_"):  # Beam knows these only once its runner for Dask is imported
    from pipelines.runners import commands

    raise WinnowError(f"{name} {commands.NO_DASK}")
  if elsewhere := [f"winnow {other}" for flag in FLAGS if f"--{flag.name}" == name for other in flag.commands]:
    raise WinnowError(f"{name} is no flag of winnow {command}, but of {', '.join(elsewhere)}; leave it out")
  own = [f"--{flag.name}" for flag in FLAGS if command in flag.commands]
  words = set(re.findall("[a-z0-9]+", name.lower()))
  # A name that is a part of another is nearer to it than spelling tells: --format is --output_format and not --rate.
  near = [flag for flag in own if words and words <= set(flag.removeprefix("--").split("_"))]
  near = near or difflib.get_close_matches(name, [*own, *sorted(beam_options.named())], 1)
  hint = f"; did you mean {near[0]}?" if near else f"; see winnow {command} --help"
  raise WinnowError(f"{unknown[0]} is no option of winnow {command} or of Beam{hint}")
