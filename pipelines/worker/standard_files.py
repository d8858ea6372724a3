"""The standard descriptors of a process: input, output and errors."""

import os


def open_missing() -> None:
  """Opens standard descriptors that the user has closed, as by `>&-`, since other files would get their numbers.

  A command calls it before it opens anything.
  """
  for standard in range(3):
    try:
      os.fstat(standard)
    except OSError:
      os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # this takes the lowest free number
