"""The teaching of a student from gathered documents, which one worker does, and the steps of all the work.

The embeddings of a million documents take 1.5 GB. They are in a temporary file, mapped, and the worker holds 400 bytes
a document besides: hashes, scores, and the keys by which near-copies are joined.
"""

import functools
import tempfile
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np

from curation.errors import WinnowError
from curation.student import figures, learning, splits, student_files
from pipelines.files import damage, fingerprints, storage
from pipelines.scorers.student import artifacts, gathering
from pipelines.scorers.student.gathering import DistillConfig
from pipelines.scoring import steps
from pipelines.worker import logs, memory, progress

TEACHING = "teaching the student"  # as users see it
_LEARNED_SECOND = 40_000  # documents of one pass, by one core
NO_LENGTH = "the embeddings do not say how long their texts are"


def is_complete(config: DistillConfig) -> bool:
  """Tells whether the student and its figures are on record. Raises WinnowError for a student of another request."""
  return _is_whole(config) and storage.exists(config.path(artifacts.FIGURES_FILE))


def _is_whole(config: DistillConfig) -> bool:
  path = artifacts.student_path(config.folder)

  def check(path: str) -> None:
    if fingerprints.fingerprint(artifacts.read_file(path).request) != config.fingerprint:
      raise WinnowError(f"{path} is the student of another request; delete {config.folder} and run the command again")

  return damage.is_whole(config.folder, path, check)


def stages(config: DistillConfig) -> list[progress.Stage]:
  """Returns the stages of the work as users see them; none if it is done."""
  if is_complete(config):
    return []
  documents = min(config.teacher.summary()["scored"], config.most_documents)
  learned = round(splits.SHARES[splits.LEARNING] * documents)
  count = progress.Count(learned * learning.passes(learned), is_exact=False)
  return [gathering.stage(config), progress.Stage(TEACHING, count, _LEARNED_SECOND)]


class _Gathered(NamedTuple):
  """The documents of all groups within the limit, in the order of their hashes."""

  rows: gathering.Rows
  names: list[str]
  """The domains."""
  near_copies: int
  """The number of documents that repeat another."""


def teach(config: DistillConfig) -> None:
  """Learns the student and writes it with its figures, unless it is on record."""
  if not _is_whole(config):
    memory.return_large_arrays()
    report = functools.partial(progress.report, config.progress_address, stage=TEACHING)
    with tempfile.TemporaryFile() as file:
      gathered, examples = _examples(config, file)
      learned = learning.learn(examples, config.seed, lambda documents: report(documents=documents))
      content = _content(config, gathered, examples, learned)
    with storage.create_file(artifacts.student_path(config.folder)) as output:
      student_files.save(content, output)
    logs.info("student_learned", path=config.folder, **content.choice)
  # From the file on record, which may be another worker's.
  student = artifacts.read(config.folder)
  written = {name: getattr(student, name) for name in ("request", "made_with", "documents", "choice", "figures")}
  storage.create(config.path(artifacts.FIGURES_FILE), fingerprints.to_json(written))


def _content(
  config: DistillConfig, gathered: _Gathered, examples: learning.Examples, learned: learning.Learned
) -> student_files.StudentFile:
  judging_N = examples.numbers(splits.JUDGING)
  names = np.array(gathered.names, object)
  judged = figures.judge(
    examples.targets_N[judging_N],
    examples.predict(learned.student, judging_N),
    gathered.rows.hashes_N[judging_N],
    None if examples.tokens_N is None else examples.tokens_N[judging_N],
    names[gathered.rows.domains_N[judging_N]].astype(str),
  )
  by_part = np.bincount(examples.parts_N, minlength=len(splits.SHARES)).tolist()
  looked_at, not_finite, without_embedding = gathered.rows.counts.tolist()
  documents = {
    "teacher": config.teacher.summary()["scored"],
    "looked_at": looked_at,
    "not_finite": not_finite,
    "without_embedding": without_embedding,
    "used": len(examples.parts_N),
    "near_copies": gathered.near_copies if config.signatures is not None else None,
    **dict(zip(("learning", "choosing", "judging"), by_part, strict=True)),
    "length": "an input" if examples.tokens_N is not None else f"left out: {NO_LENGTH}",
  }
  return student_files.StudentFile(
    learned.student,
    request=config.request,
    embedder=config.embeddings.embedder,
    made_with=config.made_with,
    documents=documents,
    choice=learned.choice,
    figures=judged,
  )


def _examples(config: DistillConfig, file: Any) -> tuple[_Gathered, learning.Examples]:
  """Reads what was gathered; the embeddings go to a temporary file, which is mapped."""
  numbers = [numbered.number for numbered in config.plan()]
  parts = [gathering.read_rows(config, number) for number in numbers]
  rows = gathering.join_rows(parts)
  order_N = np.lexsort((rows.parts_N, rows.hashes_N))[: config.most_documents]
  place_N = np.full(len(rows.hashes_N), -1, np.int64)  # of a gathered document, among those in order
  place_N[order_N] = np.arange(len(order_N))
  points_ND = signatures_NH = None
  first = 0
  for number, part in zip(numbers, parts, strict=True):
    place_G = place_N[first : first + len(part.hashes_N)]
    first += len(part.hashes_N)
    if not len(place_G):
      continue
    group = gathering.read_points(config, number)
    if points_ND is None or signatures_NH is None:
      shape = len(order_N), group.points_ND.shape[1]
      points_ND = np.memmap(file, group.points_ND.dtype, "w+", shape=shape)
      # In the same file, behind the embeddings, at a whole number of pages.
      offset = -(-points_ND.nbytes // 65_536) * 65_536
      hashes = group.signatures_NH.shape[1]
      signatures_NH = (
        np.memmap(file, np.uint32, "r+", offset=offset, shape=(len(order_N), hashes))
        if hashes
        else np.empty((len(order_N), 0), np.uint32)
      )
    points_ND[place_G[place_G >= 0]] = group.points_ND[place_G >= 0]
    signatures_NH[place_G[place_G >= 0]] = group.signatures_NH[place_G >= 0]
  if points_ND is None or signatures_NH is None:
    raise WinnowError(
      f"no document of {config.teacher.folder} has an embedding in {config.embeddings.store.folder}; score documents "
      "that are embedded"
    )
  ordered = rows._replace(
    **{name: getattr(rows, name)[order_N] for name in ("hashes_N", "parts_N", "targets_N", "tokens_N", "domains_N")}
  )
  hashes_N = ordered.parts_N
  if config.signatures is not None:
    hashes_N = splits.join_near_copies(hashes_N, signatures_NH, config.near_copies)
  gathered = _Gathered(ordered, rows.names.tobytes().decode().split("\n"), int((hashes_N != ordered.parts_N).sum()))
  tokens_N = ordered.tokens_N if (ordered.tokens_N >= 0).all() else None
  return gathered, learning.Examples(points_ND, tokens_N, ordered.targets_N, splits.parts_of(hashes_N))


class Distill(beam.PTransform):
  """PCollection of one element -> the same, once the student and its figures are on record."""

  def __init__(self, config: DistillConfig):
    super().__init__()
    self._config = config

  def expand(self, element: beam.PCollection) -> beam.PCollection:
    config = self._config
    return element | "Steps" >> steps.Steps(
      lambda: is_complete(config),
      lambda: is_complete(config),
      config.progress_address,
      [
        steps.Step(
          "Gather",
          gathering.GATHERING,
          config.plan,
          lambda group: gathering.gather_group(config, group),
          lambda groups: [config.work_path("rows", numbered.number) for numbered in groups],
        ),
        steps.Step(
          "Teach",
          TEACHING,
          lambda: [None],
          lambda _: teach(config),
          lambda _: [config.path(artifacts.FIGURES_FILE)],
        ),
      ],
    )
