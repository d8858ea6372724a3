"""`winnow cluster`: finds clusters of a store of embeddings, and the one of every document."""

import sys
from collections.abc import Sequence

from pipelines import flags, jobs, launch, options, plans, score, store_plans


def cluster(argv: Sequence[str]) -> None:
  namespace, beam_arguments = options.parse(flags.CLUSTER, argv)
  launcher = plans.make_launcher(namespace, beam_arguments)
  job = store_plans.plan_clusters(namespace, launcher)
  with launch.writing():
    if jobs.run(launcher, ["winnow", flags.CLUSTER, *argv], scoring_job=job):
      score.print_summary(job)


def main(argv: Sequence[str] | None = None) -> int:
  return launch.run_command(cluster, argv)


if __name__ == "__main__":
  sys.exit(main())
