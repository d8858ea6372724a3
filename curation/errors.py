"""The errors that a user is meant to read."""


class WinnowError(Exception):
  """Something that the user can mend, told in one sentence.

  The message says what is wrong, where (file, row) and what to do. The command line prints it alone, without
  a traceback, and exits with status 2 if nothing was written yet, 1 otherwise.
  """


class DamagedError(WinnowError):
  """A file of ours does not hold what was written into it: a run may remove it and make it again."""


def first_line(error: BaseException) -> str:
  """The first line of an error's message, or the name of its type where it has none."""
  return str(error).splitlines()[0] if str(error) else type(error).__name__
