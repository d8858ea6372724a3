"""The completion of command lines in a shell."""

import pathlib
import re
import subprocess

import pytest

from pipelines import main
from pipelines.flags import completion
from pipelines.registry import command_names


def completed(script: str, folder: pathlib.Path, *words: str) -> set[str]:
  """Returns what bash offers for the last word; readline hands `=` over as a word of its own."""
  place = f"COMP_WORDS=({' '.join(word or repr('') for word in words)})\nCOMP_CWORD={len(words) - 1}\n"
  code = f'{script}\n{place}_winnow\nprintf "%s\\n" "${{COMPREPLY[@]}}"'
  done = subprocess.run(["bash", "--norc", "-c", code], cwd=folder, capture_output=True, text=True, check=True)
  return set(done.stdout.split())


def test_bash_completes_commands_flags_choices_and_files(tmp_path, capsys):
  """Kills: a value after `=` that is not completed, flags of other commands, a path that is no file."""
  assert main.main(["--print-completion", "bash"]) == 0
  script = capsys.readouterr().out
  (tmp_path / "corpus").mkdir()
  (tmp_path / "covers.jsonl").touch()
  assert completed(script, tmp_path, "winnow", "") == set(command_names.COMMANDS)
  assert completed(script, tmp_path, "winnow", "sample", "--sampl") == {"--sampler"}
  assert completed(script, tmp_path, "winnow", "score", "--sampl") == set()
  for equals in ([], ["="]):
    assert completed(script, tmp_path, "winnow", "score", "--input", *equals, "co") == {"corpus", "covers.jsonl"}
    given = ["winnow", "score", "--overwrite", "--scorer", *equals]
    assert completed(script, tmp_path, *given, "de") == {"density"}
    assert completed(script, tmp_path, *given, "density", "--kern") == {"--kernel"}
  assert "density" in completed(script, tmp_path, "winnow", "score", "--scorer", "=")
  assert completed(script, tmp_path, "winnow", "status", "cor") == {"corpus"}


def test_zsh_takes_values_after_the_sign():
  script = completion.script("zsh")
  assert re.search(r'^  "--model=\[.*:_files"$', script, re.MULTILINE)
  assert re.search(r'^  "--overwrite\[[^:]*"$', script, re.MULTILINE)


@pytest.mark.parametrize("arguments", [[], ["fosh"], ["bash", "zsh"]])
def test_other_shells_are_refused(arguments, capsys):
  assert main.main(["--print-completion", *arguments]) == 2
  error = "winnow: --print-completion prints a script for bash, zsh, tcsh: name one of them\n"
  assert capsys.readouterr() == ("", error)
