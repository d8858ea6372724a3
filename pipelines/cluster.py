"""`winnow cluster`: finds clusters of a store of embeddings, and the one of every document."""

import sys
from collections.abc import Sequence

from pipelines import jobs, plans, score, store_plans
from pipelines.flags import command_names, parsing
from pipelines.runners import commands


def cluster(argv: Sequence[str]) -> None:
  namespace, beam_arguments = parsing.parse(command_names.CLUSTER, argv)
  launcher = plans.make_launcher(namespace, beam_arguments)
  job = store_plans.plan_clusters(namespace, launcher)
  with commands.writing():
    if jobs.run(launcher, ["winnow", command_names.CLUSTER, *argv], scoring_job=job):
      score.print_summary(job)


def main(argv: Sequence[str] | None = None) -> int:
  return commands.run_command(cluster, argv)


if __name__ == "__main__":
  sys.exit(main())
