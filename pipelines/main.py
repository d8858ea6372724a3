"""`winnow COMMAND`: finds the command, and hands it the rest of the line."""

import difflib
import importlib
import os
import sys
from collections.abc import Sequence

from curation.errors import WinnowError
from pipelines.registry import command_names, examples
from pipelines.worker import standard_files

_OTHERS = (
  "winnow COMMAND --help lists the flags of a command. winnow --version prints the",
  "version. winnow --print-completion bash (or zsh, tcsh) prints a script with",
  "which a shell completes commands, flags and files.",
)


def usage() -> str:
  """Returns the help of `winnow` itself: the commands in their groups, and examples."""
  width = max(map(len, command_names.COMMANDS))
  lines = ["usage: winnow COMMAND [flags]"]
  for title, group in command_names.GROUPS.items():
    lines += ["", f"{title}:", *(f"  {name:<{width}}  {text}" for name, text in group.items())]
  lines += ["", *_OTHERS, "", "Examples:"]
  lines += [f"  {line}" for example in examples.TOP_LEVEL for line in example.shown()]
  return "\n".join(lines)


def _print_usage() -> int:
  """Prints the help, of which a reader such as `head` may take only a part."""
  try:
    print(usage(), flush=True)
  except BrokenPipeError:
    # Python writes what is left when it ends, and would complain again.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
  return 0


def _print_completion(arguments: Sequence[str]) -> int:
  from pipelines.flags import completion

  try:
    print(completion.script(" ".join(arguments)))
  except WinnowError as error:
    print(f"winnow: {error}", file=sys.stderr)
    return 2
  return 0


def main(argv: Sequence[str] | None = None) -> int:
  standard_files.open_missing()
  command, *rest = (sys.argv[1:] if argv is None else list(argv)) or ["--help"]
  if command in ("--help", "-h", "help"):
    return _print_usage()
  if command == "--version":
    from pipelines.registry import versions

    print(f"winnow {versions.version(versions.DISTRIBUTION)}")
    return 0
  if command == "--print-completion":
    return _print_completion(rest)
  if command not in command_names.COMMANDS:
    near = difflib.get_close_matches(command, command_names.COMMANDS, 1)
    hint = f"did you mean {near[0]}?" if near else f"the commands are {', '.join(command_names.COMMANDS)}"
    print(f"winnow: there is no command {command}; {hint}", file=sys.stderr)
    return 2
  try:
    from pipelines.flags import parsing

    parsing.answer_early(command, rest)
    return importlib.import_module(f"pipelines.{command}").main(rest)
  except WinnowError as error:  # of a flag, or of a package that brings a scorer, a reader or a format
    print(f"winnow: {error}", file=sys.stderr)
    return 2
  except KeyboardInterrupt:  # during the import; a command that runs reports it itself
    print("winnow: interrupted", file=sys.stderr)
    return 130


if __name__ == "__main__":
  sys.exit(main())
