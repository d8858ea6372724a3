"""`winnow score`: scores every document of a corpus once, into a score store."""

import argparse
import functools
import sys
from collections.abc import Callable, Sequence
from typing import Any

from pipelines.files import fingerprints
from pipelines.flags import parsing
from pipelines.jobs import estimate, plan_store, planning, run_jobs
from pipelines.jobs.store_job import ScoringJob
from pipelines.registry import command_names
from pipelines.runners import commands, launch
from pipelines.scorers.clusters import clustering
from pipelines.scorers.density import sketching
from pipelines.scorers.minhash import joining


def run(command: str, plan: Callable[[argparse.Namespace, launch.Launcher], ScoringJob], argv: Sequence[str]) -> None:
  """Runs a command that makes one store, by its plan, and prints the store's summary; or estimates it, where asked."""
  namespace, beam_arguments = parsing.parse(command, argv)
  launcher = planning.make_launcher(namespace, beam_arguments)
  if getattr(namespace, "estimate", False):
    estimate.show(namespace, launcher)
    return
  job = plan(namespace, launcher)
  with commands.writing():
    if run_jobs.run(launcher, ["winnow", command, *argv], scoring_job=job):
      print_summary(job)


def print_summary(job: ScoringJob) -> None:
  """The counts of a complete store, and where it lies."""
  summary = job.config.store.summary()
  reasons = "".join(f", {reason} {count:,}" for reason, count in summary["reasons"].items())
  print(f"{summary['read']:,} documents read = {summary['scored']:,} scored + {summary['bad']:,} bad{reasons}")
  if summary["blank"]:
    print(f"{summary['blank']:,} blank lines, which are no documents")
  if summary["num_tokens"] is not None:
    print(f"{summary['num_tokens']:,} tokens")
  if job.sketch is not None:
    print_diagnostics(job.sketch)
  if job.joined is not None:
    print_near_copies(job.joined)
  for step in job.chain:
    if isinstance(step, ScoringJob) and step.centroids is not None:
      print_clusters(step.centroids)
  if split := fingerprints.field(job.config.store.engine_path, "split"):
    print_split(split)
  print(f"{job.config.store.kind.plural}: {job.config.store.folder}")


def print_diagnostics(sketch: sketching.SketchConfig) -> None:
  """The kernel of a density, how well it tells documents apart, and a verdict; warnings where it does so poorly."""
  from curation.coverage import density

  kernel = fingerprints.read_json(sketch.path(sketching.KERNEL_FILE))["config"]["kernel"]
  diagnostics = fingerprints.read_json_or_none(sketch.path(sketching.DIAGNOSTICS_FILE)) or {}
  width = "" if kernel["bandwidth"] is None else f"bandwidth {kernel['bandwidth']:g}, "
  print(f"kernel: {kernel['name']}, {width}{kernel['hashes']} hashes a row")
  # The sample's figures are exact, but a small corpus has none.
  figures = diagnostics.get("sketch", {}) | diagnostics.get("sample", {})
  if not figures:
    return
  for line in density.lines(figures, kernel["name"]):
    print(line)
  for warning in density.warnings(figures, kernel["name"]):
    print(f"winnow: warning: {warning}", file=sys.stderr)


def print_clusters(config: clustering.ClusteringConfig) -> None:
  """What a clustering is worth; warnings where another number of clusters would be better."""
  from curation.coverage import cluster_diagnostics

  found = fingerprints.read_json(config.path(clustering.DIAGNOSTICS_FILE))
  training = found["training"]
  for title, of_each in (("the training sample", training["inertia"]), ("all", training.get("lloyd_inertia"))):
    if of_each:
      print(f"inertia of {title} after each iteration: {' '.join(f'{inertia:.4g}' for inertia in of_each)}")
  parted = "" if training["silhouette"] is None else f", silhouette {training['silhouette']:.3g}"
  print(f"{found['clusters']:,} clusters of {found['documents']:,} documents, inertia {found['inertia']:.4g}{parted}")
  print(
    f"documents in a cluster: {found['smallest']:,} in the smallest, {found['median']:,.0f} in the median one, "
    f"{found['largest']:,} in the largest; {found['empty']:,} clusters are empty, {found['giant']:,} are giants"
  )
  print(f"pairs of documents that share a cluster: {found['pairs']:,}")
  for warning in cluster_diagnostics.warnings(found):
    print(f"winnow: warning: {warning}", file=sys.stderr)


def print_near_copies(config: joining.JoiningConfig) -> None:
  """How many documents repeat others."""
  found = fingerprints.read_sealed(config.near_copies_path)
  if found is None:  # the scores are whole all the same
    return
  if not found["near_copies"]:
    print("no document repeats an earlier one")
    return
  print(
    f"{found['near_copies']:,} documents repeat an earlier one, in {found['groups']:,} groups; the largest group has "
    f"{found['largest']:,} documents"
  )


def print_split(split: dict[str, Any]) -> None:
  """Which pairs of giant clusters were not compared."""
  above = f", {split['pieces_above']:,} of which still have more" if split["pieces_above"] else ""
  print(
    f"{split['clusters']:,} clusters of {split['documents']:,} documents have more than "
    f"{split['max_cluster_pairs']:,} pairs each, and were split into {split['pieces']:,} pieces{above}: "
    f"{split['pairs_compared']:,} of their pairs were compared, {split['pairs_left_out']:,} were not"
  )


def main(argv: Sequence[str] | None = None) -> int:
  score = functools.partial(run, command_names.SCORE, plan_store.plan_named_scoring)
  return commands.run_command(score, argv)


if __name__ == "__main__":
  sys.exit(main())
