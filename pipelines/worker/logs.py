"""Structured logs of workers: one JSON object a line, by which a runner's console is searched for a shard or a row.

On this machine's runners they are not shown: what they tell is in the stores, and a bar shows the progress.
"""

import logging
from typing import Any

import orjson

NAME = "winnow"


def info(event: str, **fields: Any) -> None:
  """Logs that something was done."""
  _log(logging.INFO, event, fields)


def warn(event: str, **fields: Any) -> None:
  """Logs what somebody should look at."""
  _log(logging.WARNING, event, fields)


def _log(level: int, event: str, fields: dict[str, Any]) -> None:
  logger = logging.getLogger(NAME)
  if logger.isEnabledFor(level):
    # Not the message's own formatting: a name may hold a percent sign.
    logger.log(level, "%s", orjson.dumps({"event": event, **fields}).decode())
