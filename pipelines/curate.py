"""`winnow curate`: scores, then samples when the store is complete, in one job."""

import sys
from collections.abc import Sequence

from pipelines import estimate, flags, found_stores, launch, options, output_plans, plans, score
from pipelines import sample as sample_command


def curate(argv: Sequence[str]) -> None:
  namespace, beam_arguments = options.parse(flags.CURATE, argv)
  namespace.sampler = namespace.sampler or namespace.scorer
  found_stores.refuse_other_sampler(namespace.sampler, namespace.scorer)
  launcher = plans.make_launcher(namespace, beam_arguments)
  # Random sampling of a corpus that nothing has to score.
  is_random = namespace.sampler == flags.RANDOM and namespace.model is None and namespace.embeddings is None
  if namespace.estimate:
    estimate.show(namespace, launcher)
    return
  # --overwrite spares scores that fit: they are what costs, and another rate is no reason to lose them.
  plan = plans.plan_counting if is_random else plans.plan_named_scoring
  scoring_job = plan(namespace, launcher, spare=True)
  found = output_plans.plan_samples(
    namespace,
    flags.CURATE,
    store=scoring_job.config.store,
    store_request=scoring_job.request,
    corpus=scoring_job.corpus,
  )
  if sample_command.run_to_summary(launcher, ["winnow", flags.CURATE, *argv], found, scoring_job):
    with launch.writing():
      score.print_summary(scoring_job)


def main(argv: Sequence[str] | None = None) -> int:
  return launch.run_command(curate, argv)


if __name__ == "__main__":
  sys.exit(main())
