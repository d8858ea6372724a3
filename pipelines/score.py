"""`winnow score`: scores every document of a corpus once, into a score store."""

import argparse
import functools
import sys
from collections.abc import Callable, Sequence

from pipelines.flags import parsing
from pipelines.jobs import endings, estimate, plan_store, planning, run_jobs
from pipelines.jobs.store_job import ScoringJob
from pipelines.registry import command_names
from pipelines.runners import commands, launch
from pipelines.store import dead_letters


def run(command: str, plan: Callable[[argparse.Namespace, launch.Launcher], ScoringJob], argv: Sequence[str]) -> None:
  """Runs a command that makes one store, and prints its summary; with --estimate, only estimates its cost."""
  stopwatch = endings.Stopwatch()
  namespace, beam_arguments = parsing.parse(command, argv)
  launcher = planning.make_launcher(namespace, beam_arguments)
  if getattr(namespace, "estimate", False):
    estimate.show(namespace, launcher)
    return
  job = plan(namespace, launcher)
  with commands.writing():
    if run_jobs.run(launcher, ["winnow", command, *argv], scoring_job=job):
      print_summary(job)
      following = [*endings.after_store(command, namespace, job), *endings.runner_options(beam_arguments)]
      endings.print_next(stopwatch, following)


def print_summary(job: ScoringJob) -> None:
  """Prints the counts of a complete store, the quantiles of its scores, and its folder."""
  summary = job.config.store.summary()
  reasons = "".join(f", {reason} {count:,}" for reason, count in summary["reasons"].items())
  print(f"{summary['read']:,} documents read = {summary['scored']:,} scored + {summary['bad']:,} bad{reasons}")
  for line in dead_letters.lines(job.config.store, summary["shards"]):
    print(endings.wrapped(line))
  if summary["blank"]:
    print(f"{summary['blank']:,} blank lines, which are no documents")
  if summary["num_tokens"] is not None:
    print(f"{summary['num_tokens']:,} tokens")
  if shown := endings.quantiles(job.config.store):
    print(shown)
  for step in job.chain:
    if isinstance(step, ScoringJob) and step.preparation is not None:
      lines, warnings = step.preparation.summary()
      for line in lines:
        print(endings.wrapped(line))
      for warning in warnings:
        print(f"winnow: warning: {warning}", file=sys.stderr)
  print(f"{job.config.store.kind.plural}: {job.config.store.folder}")


def main(argv: Sequence[str] | None = None) -> int:
  score = functools.partial(run, command_names.SCORE, plan_store.plan_named_scoring)
  return commands.run_command(score, argv)


if __name__ == "__main__":
  sys.exit(main())
