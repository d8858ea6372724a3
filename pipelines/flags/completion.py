"""The script that completes commands, flags, choices and files in a shell."""

import argparse
import re
import textwrap

import shtab

from curation.errors import WinnowError
from pipelines.flags.declarations import FLAGS
from pipelines.registry import flag as flag_types
from pipelines.registry.command_names import COMMANDS

SHELLS = ("bash", "zsh", "tcsh")
OPTION = "--print-completion"
_WIDTH = 70
# Readline hands --flag=value over as three words, and shtab knows flags and values that stand apart.
_BASH = """
_winnow() {
  local word words=()
  for word in "${COMP_WORDS[@]:0:COMP_CWORD+1}"; do [[ $word == "=" ]] || words+=("$word"); done
  [[ ${COMP_WORDS[COMP_CWORD]} == "=" ]] && words+=("")
  COMP_WORDS=("${words[@]}")
  COMP_CWORD=$((${#words[@]} - 1))
  _shtab_winnow
}
complete -o bashdefault -F _winnow winnow
"""
_ZSH_FLAG_WITH_VALUE = re.compile(r'^(  "--[\w-]+)\[(?=.*\]:)', re.MULTILINE)


def script(shell: str) -> str:
  """Returns the script for one of SHELLS; raises WinnowError for another shell."""
  if shell not in SHELLS:
    raise WinnowError(f"{OPTION} prints a script for {', '.join(SHELLS)}: name one of them")
  parser = argparse.ArgumentParser(prog="winnow")
  parser.add_argument("--version", action="store_true", help="show the version")
  parser.add_argument(OPTION, choices=SHELLS, help="print the script that completes command lines in a shell")
  commands = parser.add_subparsers()
  for name, text in COMMANDS.items():
    command = commands.add_parser(name, help=text)
    for flag in FLAGS:
      if name in flag.commands:
        action = flag.add_to(command, name)
        action.help = textwrap.shorten(
          (action.help or "").removeprefix("(required) ").partition(";")[0], _WIDTH, placeholder=" ..."
        )
        if flag.type in (flag_types.path, flag_types.paths):
          vars(action)["complete"] = shtab.FILE  # an attribute that shtab looks for
  printed = shtab.complete(parser, shell)
  if shell == "bash":
    return printed + _BASH
  # In zsh the sign says that a value may follow it.
  return _ZSH_FLAG_WITH_VALUE.sub(r"\1=[", printed) if shell == "zsh" else printed
