"""`winnow score`: scores every document of a corpus once, into a score store."""

import sys
from collections.abc import Sequence

from pipelines import jobs, launch, options, plans, requests


def score(argv: Sequence[str]) -> None:
  namespace, beam_arguments = options.parse(options.SCORE, argv)
  launcher = plans.make_launcher(namespace, beam_arguments)
  job = plans.plan_named_scoring(namespace, launcher)
  with launch.writing():
    job.claim()
    jobs.run(launcher, ["winnow", options.SCORE, *argv], scoring_job=job)
    print_summary(job)


def print_summary(job: jobs.ScoringJob) -> None:
  """The counts of a complete store, and where it lies."""
  summary = requests.read_json(job.config.store.summary_path)
  reasons = "".join(f", {reason} {count:,}" for reason, count in summary["reasons"].items())
  print(f"{summary['read']:,} documents read = {summary['scored']:,} scored + {summary['bad']:,} bad{reasons}")
  print(f"{summary['num_tokens']:,} tokens\nscores: {job.config.store.folder}")


def main(argv: Sequence[str] | None = None) -> int:
  return launch.run_command(score, argv)


if __name__ == "__main__":
  sys.exit(main())
