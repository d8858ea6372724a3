"""`winnow sample`: draws an exact sample from scored documents."""

import sys
from collections.abc import Sequence
from typing import Any

from pipelines.files import fingerprints
from pipelines.flags import parsing
from pipelines.jobs import endings, plan_output, planning, run_jobs
from pipelines.jobs.output_job import SamplingJob
from pipelines.registry import command_names
from pipelines.runners import commands

_MOST_UNUSED = 0.01  # the share of a budget of tokens that may stay unused without a warning


def sample(argv: Sequence[str]) -> None:
  stopwatch = endings.Stopwatch()
  namespace, beam_arguments = parsing.parse(command_names.SAMPLE, argv)
  launcher = planning.make_launcher(namespace, beam_arguments)
  scoring_job, sampling_jobs = plan_output.plan_drawing(namespace, launcher)
  with commands.writing():
    arguments = ["winnow", command_names.SAMPLE, *argv]
    if run_jobs.run(launcher, arguments, scoring_job=scoring_job, sampling_jobs=sampling_jobs):
      print_outputs(sampling_jobs)
      endings.print_next(stopwatch, endings.after_sample(namespace, beam_arguments))


def print_outputs(sampling_jobs: list[SamplingJob]) -> None:
  """Prints what complete outputs hold, and where they are."""
  for job in sampling_jobs:
    manifest = fingerprints.read_json(job.manifest_path)
    for line in endings.kept_lines(manifest):
      print(line)
    shards = len(manifest["shards"])
    print(f"dataset {manifest['dataset']}, {shards:,} shard{'s' * (shards > 1)}: {job.config.output}")
    warn_of_budget(manifest)


def warn_of_budget(manifest: dict[str, Any]) -> None:
  """Warns if much of --num_tokens stays unused."""
  budget, counts, tokens = manifest["request"]["num_tokens"], manifest["counts"], manifest["tokens"]["selected"]
  if budget is None or manifest["rejected"]:
    return
  if counts["selected"] == counts["scored"] and tokens < budget:
    problem = (
      f"is more than all documents have, {tokens:,} tokens, so that all are selected; score more, or ask for less"
    )
  elif budget - tokens > _MOST_UNUSED * budget:
    why = "the quotas leave no more, or the next document has more tokens than are left"
    why = why if manifest["request"]["group_by"] else "the next document in order has more tokens than are left"
    problem = f"leaves {(budget - tokens) / budget:.2%} unused, since {why}; a larger budget has room for it"
  else:
    return
  print(f"winnow: warning: --num_tokens={budget} {problem}", file=sys.stderr)


def main(argv: Sequence[str] | None = None) -> int:
  return commands.run_command(sample, argv)


if __name__ == "__main__":
  sys.exit(main())
