"""`winnow embed`: embeds every document of a corpus once, into a store that every coverage sampler reads."""

import sys
from collections.abc import Sequence

from pipelines import score
from pipelines.flags import parsing
from pipelines.jobs import estimate, plan_store, planning, run_jobs
from pipelines.registry import command_names
from pipelines.runners import commands


def embed(argv: Sequence[str]) -> None:
  namespace, beam_arguments = parsing.parse(command_names.EMBED, argv)
  launcher = planning.make_launcher(namespace, beam_arguments)
  if namespace.estimate:
    estimate.show(namespace, launcher)
    return
  job = plan_store.plan_embedding(namespace, launcher)
  with commands.writing():
    if run_jobs.run(launcher, ["winnow", command_names.EMBED, *argv], scoring_job=job):
      score.print_summary(job)


def main(argv: Sequence[str] | None = None) -> int:
  return commands.run_command(embed, argv)


if __name__ == "__main__":
  sys.exit(main())
