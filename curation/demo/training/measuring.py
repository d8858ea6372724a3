"""The command that measures a demo model of any kind."""

import argparse
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

from curation.demo.training import texts
from curation.errors import WinnowError


def run_command(
  argv: Sequence[str] | None,
  name: str,
  *,
  shipped: pathlib.Path,
  shared: str,
  load: Callable[[str], Any],
  measure: Callable[[Any, dict[str, list[str]], argparse.Namespace], None],
) -> int:
  """Measures the demo's `name` (rater or embedder) as the arguments say; returns the exit status.

  `shared` says what the folder of --shared must hold. `measure` takes the model that `load` reads, the texts by
  their source, and the arguments. The status is 2 if the model or the input is not suitable, otherwise 0.
  """
  parser = argparse.ArgumentParser(
    prog=f"python -m curation.demo.{name}.evaluate", description=f"Measures a demo {name}."
  )
  parser.add_argument("--input", nargs="+", required=True, help="JSON Lines or Parquet files of texts, or their folder")
  parser.add_argument("--shared", help=f"a folder with {shared}, to measure on as well")
  parser.add_argument("--model", default=str(shipped), help=f"the {name}'s folder; default: the shipped one")
  parser.add_argument("--limit", type=int, default=400, help="the most held-out texts of each source")
  parser.add_argument("--seed", type=int, default=0)
  arguments = parser.parse_args(argv)
  try:
    model = load(arguments.model)
    pools = {"input": texts.read_texts(arguments.input)}
    if arguments.shared:
      pools["C4"] = texts.read_shared(arguments.shared)
  except WinnowError as error:
    print(error, file=sys.stderr)
    return 2
  measure(model, pools, arguments)
  return 0
