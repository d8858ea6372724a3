"""Faults: real commands in processes of their own, hurt in the middle of their work, and what is left of it afterwards.

Each function runs a command, hurts it, runs it again, and compares every byte of what it leaves with an undisturbed
run's. `make faults` does all of it at length and writes the table of docs/reliability.md; test_faults.py does it in a
short form.
"""

import argparse
import collections
import concurrent.futures
import contextlib
import dataclasses
import functools
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

import psutil
import pyarrow.parquet as pq

TESTS = pathlib.Path(__file__).resolve().parent.parent
PROJECT = TESTS.parent
sys.path[:0] = [path for path in (str(PROJECT), str(TESTS)) if path not in sys.path]

import corpora  # noqa: E402
import tiny_t5  # noqa: E402
from running import content  # noqa: E402

SECONDS = 240  # that no command may take
COMMANDS = ("score", "embed", "density", "sample", "curate")
_PAGE = PROJECT / "docs/reliability.md"
_TABLE = "<!-- faults -->\n", "<!-- /faults -->"
_ON_RECORD = (".parquet", ".run", ".safetensors")
_NO_SPACE = "No space left on device"


@dataclasses.dataclass
class Outcome:
  """What became of one kind of fault: times it was injected, times the rerun's bytes were the undisturbed run's."""

  fault: str
  injected: int = 0
  survived: int = 0
  lost: int = 0
  duplicated: int = 0
  notes: list[str] = dataclasses.field(default_factory=list)

  @property
  def is_good(self) -> bool:
    return self.injected == self.survived > 0 and not self.lost and not self.duplicated


class Place:
  """A corpus, models, and an undisturbed run of every command, with two worker processes each."""

  def __init__(self, folder: pathlib.Path, *, big_rows: int, small_rows: int):
    self.folder = folder
    corpora.write_corpus(folder / "corpus", big_rows=big_rows, small_rows=small_rows)
    corpora.write_model(folder / "model")
    tiny_t5.make_sentence_t5(folder / "embedder")
    (folder / "prompt.txt").write_text(corpora.PROMPT)
    self.undisturbed = folder / "undisturbed"
    self._errors: dict[int, pathlib.Path] = {}
    self.seconds: dict[str, float] = {}
    self.undisturbed.mkdir()
    for name in COMMANDS:
      started = time.monotonic()
      status, told = self.run(name, self.undisturbed)
      assert status == 0, told
      self.seconds[name] = time.monotonic() - started

  def arguments(self, name: str, *, corpus: str = "corpus", workers: int = 2) -> list[str]:
    reading = [f"--input={self.folder / corpus}/*", "--block_rows=400", "--max_bad_fraction=0.1"]
    asking = [f"--model={self.folder}/model", f"--prompt_file={self.folder}/prompt.txt", "--max_input_tokens=32"]
    embedding = [f"--model={self.folder}/embedder", "--embedding_name=embedded"]
    drawing = ["--rate=0.3", "--num_shards=5"]
    quotas = ["--group_by=domain", "--group_rate=0.8"]
    scores = "--scores=scores"
    flags = {
      "score": ["score", *reading, *asking, scores, "--name=asked"],
      "embed": ["embed", *reading, embedding[0], scores, "--name=embedded"],
      "density": ["score", "--scorer=density", *reading, *embedding, scores, "--name=dense", "--sketch_rows=50"],
      "sample": ["sample", scores, "--sampler=ask_llm", "--name=asked", "--output=sampled", *drawing, *quotas],
      "curate": ["curate", *reading, *asking, "--scores=scores_too", "--name=both", "--output=curated", *drawing],
    }
    return [*flags[name], f"--direct_num_workers={workers}"]

  def made_by(self, name: str) -> tuple[str, ...]:
    """The folders that a command fills."""
    return {
      "score": ("scores/asked",),
      "embed": ("scores/embedded",),
      "density": ("scores/dense", "scores/embedded"),
      "sample": ("sampled",),
      "curate": ("scores_too/both", "curated"),
    }[name]

  def start(self, name: str, folder: pathlib.Path, environment: dict | None = None, **how) -> subprocess.Popen:
    command = [sys.executable, "-m", "pipelines.main", *self.arguments(name, **how)]
    # A file, not a pipe, which a worker that is left alone would hold; and not on a disk that may be full.
    handle, path = tempfile.mkstemp(dir=self.folder, prefix="errors-")
    process = subprocess.Popen(
      command,
      cwd=folder,
      stdout=subprocess.DEVNULL,
      stderr=handle,
      start_new_session=True,
      env=_environment() | (environment or {}),
    )
    os.close(handle)
    self._errors[process.pid] = pathlib.Path(path)
    return process

  def run(self, name: str, folder: pathlib.Path, environment: dict | None = None, **how) -> tuple[int, str]:
    """(exit status, what was said on standard error)."""
    return self.ended(self.start(name, folder, environment, **how))

  def ended(self, process: subprocess.Popen) -> tuple[int, str]:
    try:
      process.wait(SECONDS)
    except subprocess.TimeoutExpired:
      os.killpg(process.pid, signal.SIGKILL)
      process.wait()
    errors = self._errors.pop(process.pid)
    told = errors.read_text()
    errors.unlink()
    return process.returncode, told

  def prepared(self, name: str, folder: pathlib.Path) -> pathlib.Path:
    """A folder in which the command may begin: with the store that a sample needs."""
    folder.mkdir(parents=True, exist_ok=True)
    if name == "sample" and not (folder / "scores").exists():
      shutil.copytree(self.undisturbed / "scores/asked", folder / "scores/asked")
    return folder

  def compare(self, name: str, folder: pathlib.Path, outcome: Outcome) -> bool:
    """Adds to an outcome whether all that the command fills has the undisturbed run's bytes, and what is lost."""
    is_same = True
    for made in self.made_by(name):
      here, there = content(folder / made), content(self.undisturbed / made)
      if here != there:
        is_same = False
        different = sorted(path for path in here.keys() | there.keys() if here.get(path) != there.get(path))
        outcome.notes.append(f"{name}: {made} differs in {', '.join(different[:5])}")
        found, expected = _documents(folder / made), _documents(self.undisturbed / made)
        outcome.lost += (expected - found).total()
        outcome.duplicated += (found - expected).total()
    outcome.survived += is_same
    return is_same


def _environment() -> dict[str, str]:
  """Commands run this tree's code, whatever is installed."""
  return os.environ | {"PYTHONPATH": str(PROJECT)}


def _documents(folder: pathlib.Path) -> collections.Counter:
  """How often each scored document is in a store's shards."""
  documents: collections.Counter = collections.Counter()
  for path in folder.glob("shards/*.parquet"):
    with contextlib.suppress(OSError):  # one that is damaged holds none
      table = pq.read_table(path, columns=["row"])
      documents.update((path.name, row) for row in table["row"].to_pylist())
  return documents


def files_on_record(folder: pathlib.Path) -> int:
  """Files of stores and outputs that are whole."""
  return sum(path.suffix in _ON_RECORD and not path.name.startswith(".") for path in folder.rglob("*"))


def wait_for(condition: Callable[[], bool], process: subprocess.Popen) -> bool:
  """Waits until something is so; False where the process ended before."""
  while process.poll() is None:
    if condition():
      return True
    time.sleep(0.01)
  return False


def kill(process: subprocess.Popen, generator: random.Random) -> str:
  """Kills a command as machines, schedulers and the memory's guardian do: all of it, its launcher, or one worker."""
  victims = {"all": [process.pid]}
  with contextlib.suppress(psutil.NoSuchProcess):
    children = psutil.Process(process.pid).children()
    if len(children) == 2:
      victims |= {"launcher": [process.pid], "worker": [generator.choice(children).pid]}
  how = generator.choices(list(victims), [2, 1, 1][: len(victims)])[0]
  with contextlib.suppress(ProcessLookupError):
    if how == "all":
      os.killpg(process.pid, signal.SIGKILL)
    else:
      os.kill(victims[how][0], signal.SIGKILL)
  return how


def kills(place: Place, name: str, count: int, generator: random.Random) -> Outcome:
  """Kills a command again and again at random moments; when it comes to its end, compares and begins anew."""
  outcome = Outcome(f"SIGKILL, {name}")
  folder = place.prepared(name, place.folder / f"kills_{name}")
  pending = 0
  while True:
    last = outcome.injected == count
    process = place.start(name, folder)
    if not last:
      # The later of two moments: starting up takes a good part of a run.
      moment = max(generator.uniform(0, place.seconds[name]) for _ in range(2))
      with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(moment)
    if not last and process.poll() is None:
      how = kill(process, generator)
      status, told = place.ended(process)
      # 0: it had nothing left to do.
      if how == "worker" and (status not in (0, 1) or "Traceback" in told):
        outcome.notes.append(f"{name}: a worker's death ended the command with {status}: {told[-300:]}")
      outcome.injected, pending = outcome.injected + 1, pending + 1
      continue
    status, told = place.ended(process)
    if status != 0:
      outcome.notes.append(f"{name}: the rerun ended with {status}: {told[-500:]}")
    before = outcome.survived
    if place.compare(name, folder, outcome) and status == 0:
      outcome.survived = before + pending
    if last:
      return outcome
    pending = 0
    shutil.rmtree(folder)
    place.prepared(name, folder)


def full_disk(place: Place, name: str) -> Outcome | None:
  """Stores, outputs and temporary files on a disk that is full in the middle; then it has room. None: no such disk."""
  outcome = Outcome(f"disk full during {name}")
  with tempfile.TemporaryDirectory() as mounted:
    folder = pathlib.Path(mounted)
    # Room for what was there before and half of what will be.
    before = _bytes(place.undisturbed / "scores/asked") if name == "sample" else 0
    size = before + sum(_bytes(place.undisturbed / made) for made in place.made_by(name)) // 2
    mount = ["mount", "-t", "tmpfs", "-o", f"size={max(size, 64 << 10)}", "tmpfs", mounted]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
      return None
    try:
      place.prepared(name, folder)
      outcome.injected += 1
      status, told = place.run(name, folder, {"TMPDIR": mounted})
      if status != 1 or _NO_SPACE not in told or "Traceback" in told:
        outcome.notes.append(f"{name}: a full disk ended it with {status}: {told[-500:]}")
      subprocess.run(["mount", "-o", "remount,size=1g", mounted], check=True)
      status, told = place.run(name, folder, {"TMPDIR": mounted})
      if status != 0:
        outcome.notes.append(f"{name}: with room again it ended with {status}: {told[-500:]}")
      place.compare(name, folder, outcome)
    finally:
      subprocess.run(["umount", mounted], check=True)
  return outcome


def _bytes(folder: pathlib.Path) -> int:
  return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@functools.cache
def shim() -> str | None:
  """The library that makes disks fail and clocks jump; None where there is no C compiler."""
  if shutil.which("cc") is None:
    return None
  built = pathlib.Path(tempfile.mkdtemp(prefix="winnow-faults-")) / "shim.so"
  source = pathlib.Path(__file__).with_name("shim.c")
  subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", built, source, "-ldl"], check=True)
  return str(built)


def read_error(place: Place, name: str) -> Outcome:
  """The disk fails in the middle of a shard, at launch and then under the workers; then it is well again."""
  outcome = Outcome(f"read error in the middle of a shard, {name}")
  folder = place.prepared(name, place.folder / f"read_error_{name}")
  half = (place.folder / "corpus/big.jsonl.gz").stat().st_size // 2
  failing = {"LD_PRELOAD": shim() or "", "WINNOW_FAULT_PATH": "/big.jsonl.gz", "WINNOW_FAULT_AFTER": str(half)}
  for where, expected in ({}, 2), ({"WINNOW_FAULT_COMMAND": "sdk_worker_main"}, 1):
    outcome.injected += 1
    status, told = place.run(name, folder, failing | where)
    is_told = "big.jsonl.gz" in told and "Input/output error" in told and "Traceback" not in told
    if status != expected or not is_told:
      outcome.notes.append(f"{name}: a read error ended it with {status}: {told[-500:]}")
  status, told = place.run(name, folder)
  if status != 0:
    outcome.notes.append(f"{name}: the rerun ended with {status}: {told[-500:]}")
  if place.compare(name, folder, outcome):
    outcome.survived = outcome.injected
  return outcome


def changed_shard(place: Place, name: str, how: str) -> Outcome:
  """A shard is replaced or cut while it is worked on; then it is restored."""
  outcome = Outcome(f"a shard that is {how}, {name}", injected=1)
  folder = place.prepared(name, place.folder / f"{how}_{name}")
  path = place.folder / "corpus/big.jsonl.gz"
  whole = path.read_bytes()
  # Written when checksums are known, and before the first document is read.
  claim = folder / place.made_by(name)[0] / (".winnow/request.json" if name == "sample" else "engine.json")
  try:
    process = place.start(name, folder)
    wait_for(claim.exists, process)
    other = (place.folder / "corpus/e.jsonl.gz").read_bytes()
    path.write_bytes(other if how == "replaced" else whole[: len(whole) // 3])
    status, told = place.ended(process)
    if status != 1 or "big.jsonl.gz" not in told or "Traceback" in told:
      outcome.notes.append(f"{name}: a shard that was {how} ended it with {status}: {told[-500:]}")
  finally:
    path.write_bytes(whole)
  status, told = place.run(name, folder)
  if status != 0:
    outcome.notes.append(f"{name}: the rerun ended with {status}: {told[-500:]}")
  place.compare(name, folder, outcome)
  return outcome


def damaged_files(place: Place, name: str, count: int, generator: random.Random) -> Outcome:
  """The command is killed, and some of the files that it left are cut, emptied, or have a bit turned."""
  outcome = Outcome(f"damaged files, {name}")
  folder = place.prepared(name, place.folder / f"damaged_{name}")
  last = {"sample": "manifest.json", "curate": "manifest.json"}.get(name, "summary.json")
  while True:  # until it is killed before its end, after which nothing would be looked at again
    wanted = files_on_record(folder) + generator.randrange(3, 30)
    process = place.start(name, folder)
    wait_for(lambda wanted=wanted: files_on_record(folder) >= wanted, process)
    with contextlib.suppress(ProcessLookupError):
      os.killpg(process.pid, signal.SIGKILL)
    place.ended(process)
    if not (folder / place.made_by(name)[-1 if name == "curate" else 0] / last).exists():
      break
    shutil.rmtree(folder)
    place.prepared(name, folder)
  # A store that is complete is not looked at again but where something is made of it.
  begun = (folder / made for made in place.made_by(name) if not (folder / made / "summary.json").exists())
  found = (path for filled in begun for path in sorted(filled.rglob("*")))
  made = [path for path in found if path.suffix in _ON_RECORD]
  for path in generator.sample(made, min(count, len(made))):
    outcome.injected += 1
    data = bytearray(path.read_bytes())
    how = generator.randrange(3)
    if how == 0:
      data[generator.randrange(len(data))] ^= 1 << generator.randrange(8)
    elif how == 1:
      del data[generator.randrange(len(data)) :]
    else:
      data = bytearray()
    path.write_bytes(data)
  status, told = place.run(name, folder)
  if status != 0:
    outcome.notes.append(f"{name}: with damaged files it ended with {status}: {told[-500:]}")
  if place.compare(name, folder, outcome):
    outcome.survived = outcome.injected
  return outcome


def jumping_clock(place: Place, name: str) -> Outcome:
  """The wall clock is a day early, right, and a day late, at every look."""
  outcome = Outcome(f"a clock that jumps by a day, {name}", injected=1)
  folder = place.prepared(name, place.folder / f"clock_{name}")
  status, told = place.run(name, folder, {"LD_PRELOAD": shim() or "", "WINNOW_FAULT_CLOCK": "86400"})
  if status != 0:
    outcome.notes.append(f"{name}: with a jumping clock it ended with {status}: {told[-500:]}")
  place.compare(name, folder, outcome)
  return outcome


def two_at_once(place: Place, name: str) -> Outcome:
  """The same command twice on the same folder."""
  outcome = Outcome(f"two runs at once, {name}", injected=1)
  folder = place.prepared(name, place.folder / f"two_{name}")
  with concurrent.futures.ThreadPoolExecutor(2) as pool:
    ended = list(pool.map(lambda _: place.run(name, folder), range(2)))
  for status, told in ended:
    if status not in (0, 1) or "Traceback" in told:
      outcome.notes.append(f"{name}: one of two ended with {status}: {told[-500:]}")
  if all(status for status, _ in ended):
    status, told = place.run(name, folder)
    outcome.notes.append(f"{name}: both of two stopped, and the rerun ended with {status}: {told[-300:]}")
  place.compare(name, folder, outcome)
  return outcome


def little_memory(place: Place) -> Outcome:
  """The shapes of a run do not fit into its memory: told before the first document, with the flag to turn."""
  outcome = Outcome("too little memory for the shapes, score", injected=1)
  folder = place.prepared("score", place.folder / "little_memory")
  limit = f"ulimit -v {12 << 20}; exec "
  command = [sys.executable, "-m", "pipelines.main", *place.arguments("score", workers=1), "--batch_tokens=400000000"]
  process = subprocess.run(
    ["bash", "-c", limit + ' "$@"', "bash", *command],
    cwd=folder,
    env=_environment(),
    capture_output=True,
    text=True,
    timeout=SECONDS,
    check=False,
  )
  is_told = process.returncode == 1 and "lower --batch_tokens" in process.stderr and "Traceback" not in process.stderr
  if not is_told:
    outcome.notes.append(f"too little memory ended with {process.returncode}: {process.stderr[-500:]}")
  if files_on_record(folder):
    outcome.notes.append("documents were scored before memory was found to be too little")
  command = [sys.executable, "-m", "pipelines.main", *place.arguments("score"), "--overwrite"]
  rerun = subprocess.run(command, cwd=folder, env=_environment(), capture_output=True, check=False)
  if rerun.returncode:
    outcome.notes.append(f"with less to hold it ended with {rerun.returncode}: {rerun.stderr[-500:].decode()}")
  place.compare("score", folder, outcome)
  return outcome


def at_length(place: Place, count: int, generator: random.Random) -> dict[str, Callable[[], Outcome | None]]:
  """All faults by what they are called."""
  faults: dict[str, Callable[[], Outcome | None]] = {}
  for name in COMMANDS:
    faults[f"kills {name}"] = functools.partial(kills, place, name, count, generator)
    faults[f"damage {name}"] = functools.partial(damaged_files, place, name, 10, generator)
    faults[f"two {name}"] = functools.partial(two_at_once, place, name)
    faults[f"disk {name}"] = functools.partial(full_disk, place, name)
  faults["memory score"] = functools.partial(little_memory, place)
  for name in ("score", "sample"):
    for how in ("replaced", "truncated"):
      faults[f"{how} {name}"] = functools.partial(changed_shard, place, name, how)
    faults[f"clock {name}"] = functools.partial(jumping_clock, place, name)
  for name in ("score", "embed", "sample"):
    faults[f"read {name}"] = functools.partial(read_error, place, name)
  return faults


def row(outcome: Outcome) -> str:
  return f"| {outcome.fault} | {outcome.injected} | {outcome.survived} | {outcome.lost} | {outcome.duplicated} |"


def write_table(outcomes: list[Outcome], *, anew: bool) -> None:
  """Writes the rows into the page; those of other faults stay unless all were injected."""
  text = _PAGE.read_text()
  start, stop = text.index(_TABLE[0]) + len(_TABLE[0]), text.index(_TABLE[1])
  rows = {} if anew else {line.split(" | ")[0]: line for line in text[start:stop].splitlines()[2:]}
  rows |= {row(outcome).split(" | ")[0]: row(outcome) for outcome in outcomes}
  head = ["| fault | injected | survived | documents lost | duplicated |", "|---|---|---|---|---|"]
  _PAGE.write_text(text[:start] + "\n".join([*head, *rows.values()]) + "\n" + text[stop:])


def main() -> int:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--kills", type=int, default=50, help="of each command")
  parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
  parser.add_argument("--only", default="", help="a regular expression of what to do, such as 'kills|read score'")
  parser.add_argument("--write", action="store_true", help="write the table of docs/reliability.md")
  namespace = parser.parse_args()
  print(f"seed {namespace.seed}", flush=True)
  outcomes = []
  with tempfile.TemporaryDirectory(prefix="winnow-faults-") as folder:
    place = Place(pathlib.Path(folder), big_rows=20_000, small_rows=600)
    for called, inject in at_length(place, namespace.kills, random.Random(namespace.seed)).items():
      if re.search(namespace.only, called) and (outcome := inject()) is not None:
        print("\n".join([row(outcome), *outcome.notes]), flush=True)
        outcomes.append(outcome)
  if namespace.write:
    write_table(outcomes, anew=not namespace.only)
  injected, survived = sum(o.injected for o in outcomes), sum(o.survived for o in outcomes)
  print(f"{injected} injected, {survived} survived")
  return 0 if all(outcome.is_good and not outcome.notes for outcome in outcomes) else 1


if __name__ == "__main__":
  sys.exit(main())
