"""`winnow cluster`: finds clusters of a store of embeddings, and the one of every document."""

import sys
from collections.abc import Sequence

from pipelines import score
from pipelines.flags import parsing
from pipelines.jobs import plan_store, planning, run_jobs
from pipelines.registry import command_names
from pipelines.runners import commands


def cluster(argv: Sequence[str]) -> None:
  namespace, beam_arguments = parsing.parse(command_names.CLUSTER, argv)
  launcher = planning.make_launcher(namespace, beam_arguments)
  job = plan_store.plan_clusters(namespace, launcher)
  with commands.writing():
    if run_jobs.run(launcher, ["winnow", command_names.CLUSTER, *argv], scoring_job=job):
      score.print_summary(job)


def main(argv: Sequence[str] | None = None) -> int:
  return commands.run_command(cluster, argv)


if __name__ == "__main__":
  sys.exit(main())
