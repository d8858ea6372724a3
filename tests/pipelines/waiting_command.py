"""A command that waits for five minutes, for tests that end it: `python waiting_command.py FOLDER WHERE BEAM_FLAGS`.

A worker leaves a file named by its process in FOLDER as its first element comes, and then (WHERE is `element`) holds on
to it, or (`exit`) is quick with it and slow to exit.
"""

import os
import pathlib
import sys
import threading
import time

import apache_beam as beam

from pipelines import launch


def wait(where: str, folder: str) -> None:
  pathlib.Path(folder, str(os.getpid())).touch()
  if where == "element":
    time.sleep(300)
  else:
    threading.Thread(target=time.sleep, args=(300,), daemon=False).start()


def command(argv: list[str]) -> None:
  folder, where, *beam_arguments = argv

  def define(root: beam.Pipeline) -> None:
    root | beam.Create([where] * 20) | beam.Reshuffle() | beam.Map(wait, folder)

  launch.Launcher(beam_arguments).run(define)


if __name__ == "__main__":
  sys.exit(launch.run_command(command, None))
