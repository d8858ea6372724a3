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
# Readline hands --flag=value over as three words, and shtab knows flags and values that stand apart. A word comes as it
# is typed, with a quote before it or backslashes in it.
_BASH = """
_winnow_files() {
  local word=${1#[\\'\\"]} files line
  word=${word//\\\\/}
  files=$(compgen -f -- "$word")
  if [[ -z $files && $word == *,* ]]; then  # the last one of several paths
    local before=${word%,*},
    files=$(compgen -f -- "${word##*,}" | while IFS= read -r line; do printf '%s\\n' "$before$line"; done)
  fi
  [[ -z $files ]] || printf '%s\\n' "$files"
}
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
# shtab knows `eval` of its script, and takes `source` for the call of a function.
_ZSH_SOURCED = "$zsh_eval_context[-1] == eval", "$zsh_eval_context[-1] == (eval|file)"
_ZSH_PATHS = "{compset -P '*,'; _files}"  # the last one of several paths
# In tcsh the last one of several paths, before the rule of their flag, which knows one.
_TCSH = "complete winnow \\\n", "complete winnow \\\n        'c/--*=*,/f/' \\\n"
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
          zsh = "_files" if flag.type is flag_types.path else _ZSH_PATHS
          # An attribute that shtab looks for.
          vars(action)["complete"] = shtab.FILE | {"bash": "_winnow_files", "zsh": zsh}
  printed = shtab.complete(parser, shell)
  if shell == "bash":
    return printed + _BASH
  if shell == "tcsh":
    return printed.replace(*_TCSH)
  # In zsh the sign says that a value may follow it.
  return _ZSH_FLAG_WITH_VALUE.sub(r"\1=[", printed).replace(*_ZSH_SOURCED)
