"""`winnow sample`: draws an exact sample from scored documents."""

import sys
from collections.abc import Sequence
from typing import Any

from curation.errors import WinnowError
from pipelines.corpus import inputs
from pipelines.files import fingerprints
from pipelines.flags import parsing
from pipelines.jobs import endings, find_stores, plan_output, planning, run_jobs
from pipelines.jobs.output_job import SamplingJob
from pipelines.output import writing
from pipelines.registry import command_names
from pipelines.runners import commands
from pipelines.scorers.count import Count

_MOST_UNUSED = 0.01  # the share of a budget of tokens that may stay unused without a warning


def sample(argv: Sequence[str]) -> None:
  stopwatch = endings.Stopwatch()
  namespace, beam_arguments = parsing.parse(command_names.SAMPLE, argv)
  launcher = planning.make_launcher(namespace, beam_arguments)
  scoring_job = None
  if namespace.name is not None and namespace.scores is None:
    raise WinnowError(f"--name={namespace.name} names a store in --scores, which is not given; leave it out")
  if namespace.scores is not None:
    parsing.refuse_scoring_flags(namespace)
    store = find_stores.find_store(namespace)
    corpus = find_stores.corpus_of(store, namespace, launcher)
    store_request = fingerprints.read_json(store.request_path)
  elif namespace.sampler == "random":
    # A scorer lists the documents to draw from, in a store beside the output.
    folder = writing.count_folder(inputs.absolute(namespace.output))
    scoring_job = planning.plan_scoring(namespace, launcher, Count(), folder, spare=True)
    store, corpus, store_request = scoring_job.config.store, scoring_job.corpus, scoring_job.request
  else:
    raise WinnowError("--scores= must be given: the folder that winnow score wrote to")
  sampling_jobs = plan_output.plan_samples(
    namespace,
    parsing.own_arguments(command_names.SAMPLE, [namespace]),
    store=store,
    store_request=store_request,
    corpus=corpus,
  )
  with commands.writing():
    arguments = ["winnow", command_names.SAMPLE, *argv]
    if run_jobs.run(launcher, arguments, scoring_job=scoring_job, sampling_jobs=sampling_jobs):
      print_outputs(sampling_jobs)
      endings.print_next(stopwatch, endings.after_sample(namespace))


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
