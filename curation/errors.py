"""The one error that a user is meant to read."""


class WinnowError(Exception):
  """Something that the user can mend, told in one sentence.

  The message says what is wrong, where (file, row) and what to do. The command line prints it alone, without
  a traceback, and exits with status 2 if nothing was written yet, 1 otherwise.
  """
