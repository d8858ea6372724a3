"""`winnow embed`: embeds every document of a corpus once, into a store that every coverage sampler reads."""

import sys
from collections.abc import Sequence

from pipelines import estimate, jobs, plans, score, store_plans
from pipelines.flags import command_names, parsing
from pipelines.runners import commands


def embed(argv: Sequence[str]) -> None:
  namespace, beam_arguments = parsing.parse(command_names.EMBED, argv)
  launcher = plans.make_launcher(namespace, beam_arguments)
  if namespace.estimate:
    estimate.show(namespace, launcher)
    return
  job = store_plans.plan_embedding(namespace, launcher)
  with commands.writing():
    if jobs.run(launcher, ["winnow", command_names.EMBED, *argv], scoring_job=job):
      score.print_summary(job)


def main(argv: Sequence[str] | None = None) -> int:
  return commands.run_command(embed, argv)


if __name__ == "__main__":
  sys.exit(main())
