"""`winnow curate`: scores and then samples, in one job; a recipe may have several such stages."""

import argparse
import sys
from collections.abc import Sequence

from pipelines import sample as sample_command
from pipelines import score
from pipelines.files import fingerprints
from pipelines.flags import parsing
from pipelines.jobs import endings, estimate, find_stores, plan_output, plan_store, planning, run_jobs, store_job
from pipelines.jobs.cascades import plan
from pipelines.jobs.store_job import ScoringJob
from pipelines.registry import command_names
from pipelines.runners import commands, launch
from pipelines.scorers import registry
from pipelines.selection import survivors


def curate(argv: Sequence[str]) -> None:
  stopwatch = endings.Stopwatch()
  namespaces, beam_arguments = parsing.parse_stages(command_names.CURATE, argv)
  for namespace in namespaces:
    namespace.sampler = namespace.sampler or namespace.scorer
    find_stores.refuse_other_sampler(namespace.sampler, namespace.scorer)
  plan.refuse_flags(namespaces)
  namespace = namespaces[-1]
  # Each launcher checks the paths of one stage.
  launcher = [planning.make_launcher(stage_flags, beam_arguments) for stage_flags in namespaces][-1]
  if namespace.estimate:
    for number, stage_flags in enumerate(namespaces, 1):
      if len(namespaces) > 1:
        print(f"stage {number} of {len(namespaces)}, {stage_flags.scorer}, as if it scored all documents:")
      estimate.show(stage_flags, launcher, None if stage_flags.proxy is None else _expected(stage_flags, launcher))
    return
  made: list[argparse.Namespace] = []  # the flags of each stage, with the names of the models that were found
  jobs: list[ScoringJob] = []
  stage = planning.Stage()
  for stage_flags in namespaces[:-1]:
    job = _plan_stage(stage_flags, launcher, stage)
    jobs.append(job)
    made.append(argparse.Namespace(**vars(stage_flags) | job.made_with))
    selected = survivors.Survivors(job.config.store, plan_output.selection_request(stage_flags))
    stage = planning.Stage(stage.number + 1, store_job.SelectingJob(selected, job, stage.number))
  cascade = None if namespace.proxy is None else plan.plan(namespace, launcher)
  scoring_job = _plan_stage(namespace, launcher, stage) if cascade is None else cascade.job
  made.append(argparse.Namespace(**vars(namespace) | scoring_job.made_with))
  scoring_job.refuse_shared_folders()
  sampling_jobs = plan_output.plan_samples(
    namespace if cascade is None else cascade.namespace,
    parsing.own_arguments(command_names.CURATE, made),
    store=scoring_job.config.store,
    store_request=scoring_job.request,
    corpus=scoring_job.corpus,
  )
  if cascade is not None:
    sampling_jobs = plan.sampling_asked(cascade, sampling_jobs)
  with commands.writing():
    arguments = ["winnow", command_names.CURATE, *argv]
    if not run_jobs.run(launcher, arguments, scoring_job=scoring_job, sampling_jobs=sampling_jobs):
      return
    if stage.number > 1:
      title = f"stage {stage.number} of {stage.number} ({namespace.scorer})"
      print(f"{title}, of the documents that earlier stages selected:")
    score.print_summary(scoring_job)
    sample_command.print_outputs(sampling_jobs)
    if cascade is not None:
      for line in plan.lines(cascade):
        print(endings.wrapped(line))
    if jobs:
      selected = fingerprints.read_json(sampling_jobs[0].manifest_path)["counts"]["selected"]
      of_corpus = jobs[0].config.store.summary()["read"]
      print(f"{selected:,} of {of_corpus:,} documents of the corpus are left ({endings.share(selected, of_corpus)})")
    endings.print_next(stopwatch, endings.after_sample(namespace, beam_arguments))


def _expected(namespace: argparse.Namespace, launcher: launch.Launcher) -> tuple[float, str] | None:
  """Estimates the share of the documents that a cascade asks about; says why it is unknown if it is."""
  cascade = plan.plan(namespace, launcher)
  if (share := plan.expected_share(cascade)) is None:
    print(
      "The share that the cascade asks about is known once its audit is scored: start the command, which says the "
      "share before it asks about the rest, and can be stopped there. This is the cost of all documents:"
    )
  return share


def _plan_stage(namespace: argparse.Namespace, launcher: launch.Launcher, stage: planning.Stage) -> ScoringJob:
  # A random sample needs no scores, unless a model or embeddings are given.
  is_random = namespace.sampler == registry.RANDOM and namespace.model is None and namespace.embeddings is None
  # --overwrite spares scores that fit: they are the expensive part, and another rate is no reason to lose them.
  plan_one = plan_store.plan_counting if is_random else plan_store.plan_named_scoring
  return plan_one(namespace, launcher, spare=True, stage=stage)


def main(argv: Sequence[str] | None = None) -> int:
  return commands.run_command(curate, argv)


if __name__ == "__main__":
  sys.exit(main())
