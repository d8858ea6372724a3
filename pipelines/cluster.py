"""`winnow cluster`: clusters a store of embeddings, and assigns every document to a cluster."""

import functools
import sys
from collections.abc import Sequence

from pipelines import score
from pipelines.jobs import plan_store
from pipelines.registry import command_names
from pipelines.runners import commands


def main(argv: Sequence[str] | None = None) -> int:
  cluster = functools.partial(score.run, command_names.CLUSTER, plan_store.plan_clusters)
  return commands.run_command(cluster, argv)


if __name__ == "__main__":
  sys.exit(main())
