"""A command that waits for five minutes, for tests that end it: `python waiting_command.py FOLDER WHERE BEAM_FLAGS`.

When a worker gets its first element, it leaves a file in FOLDER that is named by its process id. If WHERE is `element`,
it then holds on to the element. If WHERE is `exit`, it is quick with it but slow to exit, and leaves another file then.
"""

import os
import pathlib
import sys
import time
from collections.abc import Sequence

import apache_beam as beam

from pipelines.runners import commands, launch


class Wait(beam.DoFn):
  """Waits for its element or, as its worker exits, in its teardown."""

  def __init__(self, where: str, folder: str):
    self._where, self._folder = where, folder

  def process(self, _: int) -> None:
    pathlib.Path(self._folder, str(os.getpid())).touch()
    if self._where == "element":
      time.sleep(300)

  def teardown(self) -> None:
    if self._where == "exit":
      pathlib.Path(self._folder, f"{os.getpid()}.exits").touch()
      time.sleep(300)


def command(argv: Sequence[str]) -> None:
  folder, where, *beam_arguments = argv

  def define(root: beam.Pipeline) -> None:
    root | beam.Create(range(20)) | beam.Reshuffle() | beam.ParDo(Wait(where, folder))

  launch.Launcher(beam_arguments).run(define)


if __name__ == "__main__":
  sys.exit(commands.run_command(command, None))
