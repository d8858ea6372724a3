"""`winnow embed`: embeds every document of a corpus once, into a store that every coverage sampler reads."""

import functools
import sys
from collections.abc import Sequence

from pipelines import score
from pipelines.jobs import plan_store
from pipelines.registry import command_names
from pipelines.runners import commands


def main(argv: Sequence[str] | None = None) -> int:
  embed = functools.partial(score.run, command_names.EMBED, plan_store.plan_embedding)
  return commands.run_command(embed, argv)


if __name__ == "__main__":
  sys.exit(main())
