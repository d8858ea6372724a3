"""`winnow score`: scores every document of a corpus once, into a score store."""

import sys
from collections.abc import Sequence

from pipelines import estimate, flags, jobs, launch, options, plans, requests, sketching


def score(argv: Sequence[str]) -> None:
  namespace, beam_arguments = options.parse(flags.SCORE, argv)
  launcher = plans.make_launcher(namespace, beam_arguments)
  if namespace.estimate:
    estimate.show(namespace, launcher)
    return
  job = plans.plan_named_scoring(namespace, launcher)
  with launch.writing():
    if jobs.run(launcher, ["winnow", flags.SCORE, *argv], scoring_job=job):
      print_summary(job)


def print_summary(job: jobs.ScoringJob) -> None:
  """The counts of a complete store, and where it lies."""
  summary = job.config.store.summary()
  reasons = "".join(f", {reason} {count:,}" for reason, count in summary["reasons"].items())
  print(f"{summary['read']:,} documents read = {summary['scored']:,} scored + {summary['bad']:,} bad{reasons}")
  if summary["num_tokens"] is not None:
    print(f"{summary['num_tokens']:,} tokens")
  if job.sketch is not None:
    print_diagnostics(job.sketch)
  print(f"{'embeddings' if job.config.store.keeps_blocks else 'scores'}: {job.config.store.folder}")


def print_diagnostics(sketch: sketching.SketchConfig) -> None:
  """The kernel of a density, and what it resolves; warnings where that is little."""
  from curation import density

  kernel = requests.read_json(sketch.path(sketching.KERNEL_FILE))["config"]["kernel"]
  diagnostics = requests.readable(sketch.path(sketching.DIAGNOSTICS_FILE)) or {}
  width = "" if kernel["bandwidth"] is None else f" of bandwidth {kernel['bandwidth']:g}"
  print(f"kernel {kernel['name']}{width}, {kernel['hashes']} hashes a row")
  for title, figures in diagnostics.items():
    print(f"of the {title}: " + ", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in figures.items()))
  # The sample's figures are exact, but a small corpus has none.
  figures = diagnostics.get("sketch", {}) | diagnostics.get("sample", {})
  for warning in density.warnings(figures, kernel["name"]) if figures else ():
    print(f"winnow: warning: {warning}", file=sys.stderr)


def main(argv: Sequence[str] | None = None) -> int:
  return launch.run_command(score, argv)


if __name__ == "__main__":
  sys.exit(main())
