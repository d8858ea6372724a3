"""The progress of a command whose workers are elsewhere: a thread of the launcher looks at what is on record.

Workers on other machines cannot reach the launcher, but their stores and outputs can be listed. The thread sends what
it finds there to the `meter` as if it were a worker. It never fails the job, and it ends with it.
"""

import contextlib
import dataclasses
import json
import socket
import sys
import threading
import time
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from pipelines.corpus import stripes
from pipelines.files import fingerprints, storage
from pipelines.jobs import meter
from pipelines.jobs.output_job import SamplingJob
from pipelines.jobs.store_job import ScoringJob, SelectingJob
from pipelines.output import manifests
from pipelines.runners import commands
from pipelines.selection import thresholds
from pipelines.store import on_record
from pipelines.worker import progress

_SHARE = 20  # a look that takes a second is followed by a pause of 20, so that large stores are listed rarely
_LAST_SECONDS = 10.0  # for the last look at a job that ended well
_TOLD = 3  # failures in a row, since a worker may remove a file that is being read


class Found(NamedTuple):
  """What is on record of one stage. `documents` is None while nothing of it can be counted."""

  documents: int | None
  is_at_work: bool


class Watched(Protocol):
  """A job whose progress can be read from what is on record."""

  stages: list[progress.Stage]
  is_awaited: bool
  """Whether the jobs after it begin once it is complete."""

  def look(self) -> list[Found]:
    """Reads the progress of each of the stages. Raises whatever a file system raises."""


class _Store:
  """The store of a job, and the preparation in it, if there is one."""

  is_awaited = True

  def __init__(self, job: ScoringJob, prefix: str):
    self._job, self._store = job, job.config.store
    self._record = on_record.Record(self._store)
    self._read: int | None = None  # the documents of the complete store
    self.stages = [progress.Stage(prefix + job.config.title, job.count)]
    if job.preparation is not None:
      self.stages.insert(0, progress.Stage(f"{prefix}preparing {storage.base_name(job.folder)}"))

  def look(self) -> list[Found]:
    if self._read is None and (summary := self._store.readable_summary()) is not None:
      self._read = summary["read"]
    documents = round(self._record.look(time.time()).documents) if self._read is None else self._read
    found = [Found(documents, self._read is None)]
    if self._job.preparation is not None:
      is_begun = not documents and self._read is None and all(before.is_complete for before in self._job.before)
      found.insert(0, Found(None, is_begun))
    return found


class _Selection:
  """The selection between two stages of a recipe."""

  is_awaited = True

  def __init__(self, job: SelectingJob, prefix: str):
    self._job, self.stages = job, [progress.Stage(prefix + thresholds.SELECTING)]

  def look(self) -> list[Found]:
    is_settled = storage.exists(self._job.survivors.path)
    return [Found(None, self._job.scoring.store.is_complete and not is_settled)]


class _Output:
  """An output: the threshold, the run files with documents for its shards, and the shards."""

  is_awaited = False

  def __init__(self, job: SamplingJob, scored: progress.Count | None, parallelism: int):
    self._job, self._config = job, job.config
    self._stripes = stripes.divide_among(job.corpus.shards, parallelism, per_worker=2)
    self._rows: dict[str, list[int]] = {}  # the rows of the blocks of each shard, once the store is complete
    self._num_rows = 0
    self._done: dict[str, int] = {}  # the documents of each output shard that is on record
    self.stages = [dataclasses.replace(stage, speed=None) for stage in job.stages(scored)]
    self.stages[0] = dataclasses.replace(self.stages[0], count=None)

  def look(self) -> list[Found]:
    config = self._config
    if not self._rows and (summary := config.store.readable_summary()) is not None:
      self._rows = {shard["shard"]: shard["block_rows"] for shard in summary["shards"]}
      self._num_rows = sum(map(sum, self._rows.values())) - summary["blank"]
    if not self._rows:
      return [Found(None, False), Found(0, False), Found(0, False)]
    if self._job.is_complete:
      selected = manifests.read(config.output)["counts"]["selected"]
      return [Found(None, False), Found(self._num_rows, False), Found(selected, False)]
    folder = config.runs_folder(config.store.engine())
    names = storage.list_names(folder)
    runs = [stripe for stripe in self._stripes if f"{stripe.file_name}.run" in names]
    read = sum(
      num_rows for stripe in runs for index, num_rows in enumerate(self._rows[stripe.shard.name]) if stripe.holds(index)
    )
    for name in names:
      if name.endswith(".json") and name not in self._done:
        record = fingerprints.read_sealed(storage.join(folder, name))
        self._done |= {name: record["documents"]} if record else {}
    written = sum(count for name, count in self._done.items() if name in names)
    are_collected = len(runs) == len(self._stripes)
    return [Found(None, not runs), Found(read, bool(runs) and not are_collected), Found(written, are_collected)]


def watched(
  steps: Sequence[ScoringJob | SelectingJob],
  sampling_jobs: Sequence[SamplingJob],
  scored: progress.Count | None,
  *,
  recipe: int,
  parallelism: int,
) -> list[Watched]:
  """Returns the jobs of stores and outputs as they are watched, in the order of work.

  `scored` is as in `SamplingJob.stages`, `recipe` the number of stages in the recipe.
  """
  found: list[Watched] = []
  for job in steps:
    prefix = progress.prefix_of(job.number, recipe)
    found.append(_Store(job, prefix) if isinstance(job, ScoringJob) else _Selection(job, prefix))
  return [*found, *(_Output(job, scored, parallelism) for job in sampling_jobs)]


class Watch:
  """A thread that looks at jobs until the `with` block ends, and once more after success; for the meter at `address`.

  If a look fails again and again, one warning says so. A look that hangs is left behind: its thread sends nothing
  more, and does not keep the process from ending.
  """

  def __init__(self, jobs: Sequence[Watched], address: progress.Address):
    self._jobs, self._address = jobs, address
    self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    self._first: dict[tuple[int, int], int] = {}  # the documents of each stage at the first look
    self._grown: set[tuple[int, int]] = set()
    self._looked: dict[int, float] = {}  # when each job was looked at last
    self._failures: dict[int, int] = {}  # how often in a row a look at each job has failed
    self._ended, self._is_silent, self._has_told = threading.Event(), False, False
    self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

  def __enter__(self) -> "Watch":
    if self._jobs:
      self._thread.start()
    return self

  def __exit__(self, kind: type[BaseException] | None, *_) -> None:
    self._is_silent = kind is not None
    self._ended.set()
    if self._jobs and not self._is_silent:
      self._thread.join(_LAST_SECONDS)
    self._is_silent = True
    self._socket.close()

  def _run(self) -> None:
    began = time.monotonic()
    while not self._ended.is_set():
      started = time.monotonic()
      self._look()
      took = time.monotonic() - started
      self._ended.wait(max(meter.pause_seconds(time.monotonic() - began), _SHARE * took))
    if not self._is_silent:
      self._look()

  def _look(self) -> None:
    for number, job in enumerate(self._jobs):
      try:
        found, now = job.look(), time.monotonic()
      except Exception as error:  # of a network, or of a file that a worker has just removed
        self._failures[number] = self._failures.get(number, 0) + 1
        if self._failures[number] == _TOLD and not self._has_told and not self._ended.is_set():
          self._has_told = True
          print(f"winnow: warning: the progress cannot be read just now: {commands.last_line(error)}", file=sys.stderr)
        continue
      if self._is_silent:
        return
      self._failures[number] = 0
      for place, (stage, of_stage) in enumerate(zip(job.stages, found, strict=True)):
        self._send((number, place), stage, of_stage, now - self._looked.get(number, now))
      is_known = number in self._looked
      self._looked[number] = now
      if is_known and job.is_awaited and any(stage.is_at_work for stage in found):
        return  # nothing of later jobs is on record that was not at the first look

  def _send(self, key: tuple[int, int], stage: progress.Stage, found: Found, ago: float) -> None:
    """Sends the totals of a stage once it has begun, which is when a look finds more documents than the first look.

    `ago`: the seconds since the look before, which found none.
    """
    documents = found.documents or 0
    first = self._first.setdefault(key, documents)
    if found.documents is None:
      is_begun, ago = found.is_at_work or key in self._grown, 0.0
    else:
      is_begun = documents > first or key in self._grown
    if not is_begun:
      return
    self._grown.add(key)
    counts = [max(documents - first, 0), first, 0, int(found.is_at_work)]
    message = {"run": self._address.run, "stage": stage.title, "process": key[0], "counts": counts, "ago": ago}
    with contextlib.suppress(OSError):
      self._socket.sendto(json.dumps(message).encode(), ("127.0.0.1", self._address.port))
