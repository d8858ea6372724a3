"""Parts of one command as processes: killed, started again in any order, two at a time; the bytes of one machine."""

import contextlib
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time

import buckets
import corpora
import pytest
from places import SECONDS, Outcome, Place, environment
from running import content

from pipelines.corpus import stripes
from pipelines.store import score_files
from pipelines.store.score_store import ScoreStore

pytestmark = pytest.mark.long
PADDING = "x" * 900  # so that one shard is large enough to be divided, though it has few documents


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Place:
  """A place whose corpus has one shard of several stripes and eight small ones; all rows are documents."""
  place = Place(tmp_path_factory.mktemp("parts"), big_rows=300, small_rows=60, commands=())
  shutil.rmtree(place.folder / "corpus")
  (place.folder / "corpus").mkdir()
  for seed, rows in enumerate([6_000, *[500] * 8]):
    texts, padding = corpora.sentences(rows, seed), PADDING if seed == 0 else ""
    lines = [json.dumps({"text": text, "padding": padding, "url": f"http://{seed}.com/{text}"}) for text in texts]
    (place.folder / f"corpus/{seed}.jsonl").write_text("\n".join(lines) + "\n")
  for name in ("score", "embed", "sample", "stages"):
    status, told = place.run(name, place.undisturbed)
    assert status == 0, told
  return place


class Task:
  """A part of a command, as a process of its own."""

  def __init__(self, place: Place, name: str, folder: pathlib.Path, part: str, *flags: str, root: str = ""):
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pipelines.main", *place.arguments(name, workers=1, root=root)]
    self._told = place.folder / f"told-{time.monotonic_ns()}"
    with self._told.open("wb") as told:
      self.process = subprocess.Popen(
        [*command, f"--part={part}", *flags],
        cwd=folder,
        stdout=told,
        stderr=subprocess.STDOUT,
        env=environment(),
        start_new_session=True,
      )

  def ended(self) -> tuple[int, str]:
    status = self.process.wait(SECONDS)
    return status, self._told.read_text()

  def kill(self) -> None:
    with contextlib.suppress(ProcessLookupError):
      os.killpg(self.process.pid, signal.SIGKILL)
    self.process.wait()


class Division:
  """The stripes of a store that is to be filled, and the documents of each block of its shards."""

  def __init__(self, whole: pathlib.Path, count: int):
    complete = ScoreStore.at(str(whole))
    assert complete is not None
    self.shards = complete.shards()
    self._rows = {shard.name: score_files.read_summary(complete, shard).block_rows for shard in self.shards}
    stripes_of_all = stripes.divide_among(self.shards, count, per_worker=4)
    assert len(stripes_of_all) > len(self.shards), "one shard is divided"
    self._stripes = {index: stripes_of_all[index::count] for index in range(count)}

  def on_record(self, folder: pathlib.Path, index: int) -> int:
    """Counts the documents on record of the stripes of a part."""
    store = ScoreStore.at(str(folder))
    if store is None:
      return 0
    engine, total = store.engine(), 0
    for stripe in self._stripes[index]:
      rows, there = self._rows[stripe.shard.name], store.finished_blocks(stripe.shard, engine)
      if store.finished([stripe.shard]):
        there = frozenset(range(len(rows)))
      total += sum(rows[block] for block in filter(stripe.holds, there))
    return total


def new_documents(folder: pathlib.Path) -> int:
  """Adds up the documents that runs scored which came to their end, whether they succeeded or not."""
  logs = [json.loads(path.read_text()) for path in (folder / "log").glob("*.json")]
  by_process = [log["documents_by_process"].get("scoring (ask_llm)", {}) for log in logs]
  return sum(sum(counts.values()) for counts in by_process)


def test_killed_parts_do_again_only_what_was_in_progress(place):
  """Eight parts in any order, two at a time, each killed at a random moment and started again; then three parts.

  Kills the mutants: a part that scores what is on record, or another part's share; a store whose bytes tell how it was
  divided; records that another number of parts cannot use.
  """
  count, generator = 8, random.Random(11)
  folder, division = place.folder / "killed", Division(place.undisturbed / "scores/asked", count)
  store, expected, kills = folder / "scores/asked", 0, 0
  shares = [division.on_record(place.undisturbed / "scores/asked", index) for index in range(count)]
  assert sum(shares) == 10_000
  assert min(shares) > 0
  moments = {index: generator.randrange(shares[index]) for index in range(count)}
  waiting = [index for index in range(count) for _ in range(2)]
  generator.shuffle(waiting)
  running: dict[int, Task] = {}
  while waiting or running:
    while len(running) < 2 and (index := next((i for i in waiting if i not in running), None)) is not None:
      waiting.remove(index)
      expected += 0 if index in moments else shares[index] - division.on_record(store, index)
      running[index] = Task(place, "score", folder, f"{index}/{count}", "--part_timeout=0")
    for index, task in list(running.items()):
      is_due = index in moments and division.on_record(store, index) >= moments[index]
      if task.process.poll() is None and is_due:
        task.kill()
        kills += 1
      elif task.process.poll() is not None:
        status, told = task.ended()
        assert status in (0, 1), told
        assert "Traceback" not in told
        assert status == 0 or f"part {index}/{count} has waited 0 s" in told
      else:
        continue
      del running[index]
      moments.pop(index, None)
    time.sleep(0.01)
  assert kills >= 4
  assert 0 < expected < 10_000
  assert new_documents(store) == expected
  for task in [Task(place, "score", folder, f"{index}/3", f"--part_timeout={SECONDS}") for index in (2, 0, 1)]:
    status, told = task.ended()
    assert status == 0, told
  assert new_documents(store) == expected
  outcome = Outcome("parts")
  assert place.compare("score", folder, outcome), outcome.notes


def test_parts_share_a_bucket(place):
  """Three parts at once embed on an emulated object store. Kills the mutant that looks for files on a disk alone."""
  with buckets.emulated() as bucket:
    tasks = [
      Task(place, "embed", place.folder / f"bucket{index}", f"{index}/3", "--part_timeout=600", root=f"{bucket}/run/")
      for index in (1, 2, 0)
    ]
    for task in tasks:
      status, told = task.ended()
      assert status == 0, told
    found = buckets.content(f"{bucket}/run/scores/embedded")
  expected = content(place.undisturbed / "scores/embedded")
  assert found.keys() == expected.keys()
  assert len([name for name in found if name.endswith(".parquet")]) > 30
  assert found == expected


@pytest.mark.parametrize("name", ["sample", "stages"])
def test_parts_that_wait_for_each_other_give_the_bytes_of_one_machine(place, name):
  """Three parts at once draw a sample within quotas, and run a recipe of three stages with clusters and near-copies.

  Kills the mutants: a step that another part never sees as done; a conclusion that parts leave out; a part that fails
  because the others have tidied up.
  """
  folder = place.prepared(name, place.folder / f"together_{name}")
  for task in [Task(place, name, folder, f"{index}/3", f"--part_timeout={SECONDS}") for index in (2, 0, 1)]:
    status, told = task.ended()
    assert status == 0, told
  outcome = Outcome("parts")
  assert place.compare(name, folder, outcome), outcome.notes


def test_parts_that_steal_do_the_work_of_one_that_never_comes_back(place):
  """Part 1 of 3 is killed and stays away: the others have begun before it ends, and take over what it has left.

  Kills the mutants: parts that take over shares that nobody has begun, but none that was begun; a part that does all of
  the others' work beside its own.
  """
  folder = place.folder / "stolen"
  division = Division(place.undisturbed / "scores/asked", 3)
  share = division.on_record(place.undisturbed / "scores/asked", 1)
  flags = ["--part_steal", f"--part_timeout={SECONDS / 4}"]
  dying = Task(place, "score", folder, "1/3", *flags)
  while not (on_record := division.on_record(folder / "scores/asked", 1)):
    assert dying.process.poll() is None
    time.sleep(0.01)
  dying.kill()
  assert on_record < share
  on_record = division.on_record(folder / "scores/asked", 1)
  for task in [Task(place, "score", folder, f"{index}/3", *flags) for index in (0, 2)]:
    status, told = task.ended()
    assert status == 0, told
  others = sum(division.on_record(place.undisturbed / "scores/asked", index) for index in (0, 2))
  left = share - on_record
  assert others + left <= new_documents(folder / "scores/asked") <= others + 2 * left, "both may take over"
  outcome = Outcome("parts")
  assert place.compare("score", folder, outcome), outcome.notes
