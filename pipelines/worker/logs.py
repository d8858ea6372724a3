"""Structured logs of workers: one JSON object a line, so that a runner's console can be searched for a shard or a row.

Local runners do not show them: the stores hold the same information, and a bar shows the progress.
"""

import logging

import orjson

NAME = "winnow"


def info(event: str, **fields: object) -> None:
  """Logs an event that needs no attention, such as a finished shard."""
  _log(logging.INFO, event, fields)


def warn(event: str, **fields: object) -> None:
  """Logs an event that somebody should look at."""
  _log(logging.WARNING, event, fields)


def _log(level: int, event: str, fields: dict[str, object]) -> None:
  logger = logging.getLogger(NAME)
  if logger.isEnabledFor(level):
    # The JSON is an argument, not the format string: a name may hold a percent sign.
    logger.log(level, "%s", orjson.dumps({"event": event, **fields}).decode())
