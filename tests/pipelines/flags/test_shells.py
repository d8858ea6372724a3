"""The scripts of completion in the shells themselves, each at a terminal, in which keys are typed."""

import os
import pathlib
import pty
import select
import shutil
import subprocess

import pytest

from pipelines.flags import completion

PATIENCE = 120.0  # seconds after which a shell that says nothing hangs
# What is typed before the tabulator, and the arguments that the command then gets. Shells differ in the sign or the
# slash that they leave at the end.
TYPED = {
  "winnow sam": ["sample"],
  "winnow --print-completion t": ["--print-completion", "tcsh"],
  "winnow score --overwrite --scorer=de": ["score", "--overwrite", "--scorer=density"],
  "winnow score --scorer de": ["score", "--scorer", "density"],
  "winnow score --scorer=density --sketch_s": ["score", "--scorer=density", "--sketch_seed"],
  "winnow score --input=cov": ["score", "--input=covers.jsonl"],
  "winnow score --input cov": ["score", "--input", "covers.jsonl"],
  "winnow score --input='corpus/*.jsonl' --scores=cor": ["score", "--input=corpus/*.jsonl", "--scores=corpus"],
  "winnow score --input='corpus/p": ["score", "--input=corpus/part.jsonl"],
  r"winnow score --input=my\ d": ["score", "--input=my data"],
  r"winnow score --input=my\ data/p": ["score", "--input=my data/part.jsonl"],
  "winnow report --output=corpus,cov": ["report", "--output=corpus,covers.jsonl"],
  "winnow status cov": ["status", "covers.jsonl"],
}
SHELLS = {
  "bash": (["bash", "--norc", "-i"], "source {script}"),
  "zsh": (["zsh", "-f", "-i"], "autoload -Uz compinit; compinit -u -D; source {script}"),
  "zsh, from its path": (["zsh", "-f", "-i"], "fpath=({folder} $fpath); autoload -Uz compinit; compinit -u -D"),
  "tcsh": (["tcsh", "-f"], "source {script}"),
}


class Terminal:
  """A shell at a terminal of its own."""

  def __init__(self, command: list[str], folder: pathlib.Path):
    self._end, shells_end = pty.openpty()
    path = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
    environment = {"PATH": path, "HOME": str(folder), "TERM": "xterm", "INPUTRC": os.devnull, "LC_ALL": "C.UTF-8"}
    ends = {"stdin": shells_end, "stdout": shells_end, "stderr": shells_end}
    self._shell = subprocess.Popen(["setsid", "--ctty", *command], cwd=folder, env=environment, **ends)
    os.close(shells_end)
    self._said = b""

  def type(self, keys: str) -> None:
    os.write(self._end, keys.encode())

  def answer(self) -> list[str]:
    """Waits for the next run of the command, and returns its arguments."""
    while b"<end>" not in self._said:
      assert select.select([self._end], [], [], PATIENCE)[0], self._said
      self._said += os.read(self._end, 1 << 16)
    before, _, self._said = self._said.partition(b"<end>")
    return before.rpartition(b"<got>")[2].decode().replace("\r", "").replace("\n", "").split("|")[:-1]

  def close(self) -> None:
    self._shell.kill()
    self._shell.wait()
    os.close(self._end)


@pytest.mark.parametrize("shell", SHELLS)
def test_a_shell_completes_what_is_typed(shell, tmp_path):
  """Kills: a script that a shell cannot load as docs/install.md says; paths with a quote, a space or a comma before
  what is completed; values after `=` or apart from it that are not completed.
  """
  command, setup = SHELLS[shell]
  if shutil.which(command[0]) is None:
    pytest.skip(f"{command[0]} is not installed")
  (tmp_path / "bin").mkdir()
  (tmp_path / "bin/winnow").write_text("#!/bin/sh\nprintf '<%s>' got\nprintf '%s|' \"$@\"\nprintf '<%s>\\n' end\n")
  (tmp_path / "bin/winnow").chmod(0o755)
  for name in ("covers.jsonl", "corpus/part.jsonl", "my data/part.jsonl"):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
  script = tmp_path / "bin/_winnow"
  script.write_text(completion.script(command[0]))
  terminal = Terminal(command, tmp_path)
  try:
    terminal.type(f"{setup.format(script=script, folder=script.parent)}; winnow ready\n")
    assert terminal.answer() == ["ready"]
    found = {}
    for typed in TYPED:
      terminal.type(f"{typed}\t\n")
      found[typed] = [argument.rstrip("=/") for argument in terminal.answer()]
    assert found == TYPED
    if command[0] != "tcsh":  # which completes flags of all commands everywhere
      terminal.type("winnow score --sampl\t\n")
      assert terminal.answer() == ["score", "--sampl"]
  finally:
    terminal.close()
