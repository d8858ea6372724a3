"""Errors that a user is meant to read."""


class WinnowError(Exception):
  """An error that the user can fix.

  Its message is one sentence that says what is wrong, where (file, row) and what to do. The command line prints the
  message without a traceback, and exits with status 2 if nothing was written yet, otherwise with 1.
  """


class DamagedError(WinnowError):
  """A file of Winnow's own that no longer holds what was written to it. A run may delete it and make it again."""


def first_line(error: BaseException) -> str:
  """Returns the first line of an error's message, or the name of its type if it has none."""
  return str(error).splitlines()[0] if str(error) else type(error).__name__
