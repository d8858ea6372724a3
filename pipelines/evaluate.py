"""`winnow evaluate`: computes the perplexity of checkpoints on validation sets, exact over each set, and its curve."""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

from curation.errors import DamagedError, WinnowError
from curation.scorers.corpus_loss import CorpusLoss
from pipelines.corpus import inputs
from pipelines.corpus.corpus import Corpus
from pipelines.files import storage
from pipelines.flags import parsing
from pipelines.jobs import endings, plan_store, planning, run_jobs
from pipelines.output import folders
from pipelines.registry import command_names
from pipelines.reports import evaluation
from pipelines.runners import commands, launch
from pipelines.scorers.t5 import model_files
from pipelines.scorers.t5.perplexity import Perplexity
from pipelines.scoring import scoring


def evaluate(argv: Sequence[str]) -> None:
  stopwatch = endings.Stopwatch()
  namespace, beam_arguments = parsing.parse(command_names.EVALUATE, argv)
  launcher = planning.make_launcher(_store_flags(namespace, input=None), beam_arguments)
  if launcher.writes_template:
    raise WinnowError(
      "--template_location holds one job, and an evaluation is a job for each model and corpus: leave it out"
    )
  if folders.is_store(scores := inputs.absolute(namespace.scores)):
    raise WinnowError(f"--scores={namespace.scores} {folders.instead_of_stores(scores)}")
  models, left_out = model_files.find_models(namespace.models)
  for reason in left_out:
    print(f"winnow: left out: {reason}", file=sys.stderr)
  for path in filter(os.path.isdir, models.values()):
    launcher.refuse_local({"--models": path})
  corpora = {
    name: planning.identified_corpus(_store_flags(namespace, input=pattern), launcher)
    for name, pattern in evaluation.find_corpora(namespace.input).items()
  }
  run = _Evaluation(namespace, launcher, ["winnow", command_names.EVALUATE, *argv], models, corpora)
  failed = [name for name in sorted(models, key=evaluation.Point.from_name) if not run.add(name)]
  if failed and not run.has_written:
    raise WinnowError(f"none of the {len(failed)} models can be evaluated; nothing was written")
  for warning in evaluation.disagreements(run.results):
    print(f"winnow: warning: {warning}", file=sys.stderr)
  if run.results:
    print("\n".join(evaluation.lines(evaluation.figures(run.results, list(corpora), namespace.weigh_by))))
    print(f"{_counted(len(run.results), 'model')} on {_counted(len(corpora), 'corpus')}")
    print(f"figures: {run.folder}")
  if failed:
    raise commands.JobError(
      f"{len(failed)} of {len(models)} models were not evaluated: {', '.join(failed)}; run the same command again to "
      "go on"
    )
  if run.results:
    again = parsing.own_arguments(command_names.EVALUATE, [namespace])
    endings.print_next(stopwatch, again, when="next, once there are more checkpoints")


def _counted(count: int, noun: str) -> str:
  plural = {"corpus": "corpora"}.get(noun, f"{noun}s")
  return f"{count:,} {noun if count == 1 else plural}"


class _Evaluation:
  """The evaluation of models, one after another; the figures of the others survive a model that fails."""

  def __init__(
    self,
    namespace: argparse.Namespace,
    launcher: launch.Launcher,
    arguments: Sequence[str],
    models: dict[str, str],
    corpora: dict[str, Corpus],
  ):
    self.folder = inputs.absolute(namespace.scores)
    self.results: dict[str, dict[str, CorpusLoss]] = {}
    self.has_written = False
    self._namespace, self._launcher, self._arguments = namespace, launcher, arguments
    self._models, self._corpora = models, corpora
    self._patterns = evaluation.find_corpora(namespace.input)
    self._searched: set[str] = set()

  def add(self, name: str) -> bool:
    """Evaluates a model on every corpus, and writes all known figures; returns False if one evaluation failed."""
    request: dict[str, Any] | None = None
    is_whole = True
    for corpus in self._corpora:
      scoring.release_model()
      try:
        with commands.writing():
          request = self._add(name, corpus)
      except commands.JobError as error:
        is_whole = False
        print(f"winnow: {name} was not evaluated on {corpus}: {error}", file=sys.stderr)
    if request is not None:
      with commands.writing():
        evaluation.write(
          self.folder,
          self.results,
          corpora=list(self._corpora),
          weigh_by=self._namespace.weigh_by,
          request=request,
        )
    return is_whole

  def _add(self, name: str, corpus: str) -> dict[str, Any] | None:
    """Adds a figure; returns the request of its store, or None if the job was only built."""
    where = {"input": self._patterns[corpus], "scores": storage.join(self.folder, corpus)}
    namespace = _store_flags(self._namespace, model=self._models[name], name=name, **where)
    try:
      return self._score(namespace, corpus)
    except DamagedError:  # damaged files were removed from the store: make them again
      return self._score(namespace, corpus)

  def _score(self, namespace: argparse.Namespace, corpus: str) -> dict[str, Any] | None:
    job = plan_store.plan_named_scoring(namespace, self._launcher, corpus=self._corpora[corpus])
    self.has_written = self.has_written or not self._launcher.is_dry_run
    print(f"winnow: evaluating {namespace.name} on {corpus}", file=sys.stderr)
    if not run_jobs.run(self._launcher, self._arguments, scoring_job=job):
      return None
    if corpus not in self._searched:
      self._searched.add(corpus)
      losses, problems = evaluation.earlier(namespace.scores, job.request)
      for name in problems.keys() - self._models.keys():  # the others are reported when their turn comes
        print(f"winnow: warning: {problems[name]}", file=sys.stderr)
      for name, loss in losses.items():
        self.results.setdefault(name, {})[corpus] = loss
    self.results.setdefault(namespace.name, {})[corpus] = evaluation.read_loss(job.config.store)
    return job.request


def _store_flags(namespace: argparse.Namespace, **changes: Any) -> argparse.Namespace:
  """Returns the flags of `winnow score` for one store of an evaluation."""
  scored: dict[str, Any] = {"scorer": Perplexity.SCORER, "model": None, "name": None, "estimate": False}
  return argparse.Namespace(**{**vars(namespace), **scored, **changes})


def main(argv: Sequence[str] | None = None) -> int:
  return commands.run_command(evaluate, argv)


if __name__ == "__main__":
  sys.exit(main())
