"""Faults in real commands, which run in processes of their own and are hurt in the middle of their work.

Each function runs a command, hurts it, runs it again, and compares every byte of what it leaves with an undisturbed
run's. tests/faults does that in a short form, at_length.py at length.
"""

import concurrent.futures
import contextlib
import functools
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile

import buckets
from places import ON_RECORD, SECONDS, Outcome, Place, environment, files_on_record, kill, wait_for

from pipelines.files import storage

_NO_SPACE = "No space left on device"


def kills(place: Place, name: str, count: int, generator: random.Random) -> Outcome:
  """Kills a command again and again at random moments; whenever it reaches its end, compares and starts again."""
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


def kills_on_a_bucket(place: Place, name: str, count: int, generator: random.Random) -> Outcome:
  """Does the same with stores and outputs on an emulated object store, and compares with an undisturbed run there."""
  outcome = Outcome(f"SIGKILL on a bucket, {name}")
  with buckets.emulated() as bucket:
    status, told = place.run(name, place.folder, root=f"{bucket}/whole/")
    assert status == 0, told
    while outcome.injected < count:
      process = place.start(name, place.folder, root=f"{bucket}/hurt/")
      with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(generator.uniform(0.3, 1) * place.seconds[name])
      outcome.injected += 1
      if process.poll() is None:
        kill(process, generator)
        place.ended(process)
        continue
      status, told = place.ended(process)  # and starts again
      storage.delete_folder(f"{bucket}/hurt")
      outcome.injected -= 1
      if status != 0:
        outcome.notes.append(f"{name}: it ended with {status}: {told[-500:]}")
    status, told = place.run(name, place.folder, root=f"{bucket}/hurt/")
    if status != 0:
      outcome.notes.append(f"{name}: the rerun ended with {status}: {told[-500:]}")
    for made in place.made_by(name):
      whole, hurt = (buckets.content(f"{bucket}/{run}/{made}") for run in ("whole", "hurt"))
      hurt = {path: data.replace(b"gs://winnow/hurt/", b"gs://winnow/whole/") for path, data in hurt.items()}
      if different := sorted(path for path in whole.keys() | hurt.keys() if whole.get(path) != hurt.get(path)):
        outcome.notes.append(f"{name}: {made} differs in {', '.join(different[:5])}")
  outcome.survived = 0 if outcome.notes else outcome.injected
  return outcome


def full_disk(place: Place, name: str) -> Outcome | None:
  """Has the disk full in the middle of a command, then makes room; returns None if no such disk can be mounted."""
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
  """Returns the library that makes disks fail and clocks jump; None if there is no C compiler."""
  if shutil.which("cc") is None:
    return None
  built = pathlib.Path(tempfile.mkdtemp(prefix="winnow-faults-")) / "shim.so"
  source = pathlib.Path(__file__).with_name("shim.c")
  subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", built, source, "-ldl"], check=True)
  return str(built)


def read_error(place: Place, name: str) -> Outcome:
  """Makes the disk fail in the middle of a shard, first at launch and then in the workers; then it works again."""
  outcome = Outcome(f"read error in the middle of a shard, {name}")
  folder = place.prepared(name, place.folder / f"read_error_{name}")
  half = (place.folder / "corpus/big.jsonl.gz").stat().st_size // 2
  failing = {"LD_PRELOAD": shim() or "", "WINNOW_FAULT_PATH": "/big.jsonl.gz", "WINNOW_FAULT_AFTER": str(half)}
  for where, expected in ({}, 2), ({"WINNOW_FAULT_COMMAND": "fork_server"}, 1):
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
  """Replaces or cuts a shard while a command works on it, then restores it."""
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


def _is_on_record(folder: pathlib.Path, wanted: int) -> bool:
  return files_on_record(folder) >= wanted


def damaged_files(place: Place, name: str, count: int, generator: random.Random) -> Outcome:
  """Kills the command, then cuts or empties some of the files that it left, or flips a bit in them."""
  outcome = Outcome(f"damaged files, {name}")
  folder = place.prepared(name, place.folder / f"damaged_{name}")
  fills_output = name in ("sample", "curate", "stages")
  while True:  # until it is killed before its end: after that, nothing would be looked at again
    wanted = files_on_record(folder) + generator.randrange(3, 30)
    process = place.start(name, folder)
    wait_for(functools.partial(_is_on_record, folder, wanted), process)
    with contextlib.suppress(ProcessLookupError):
      os.killpg(process.pid, signal.SIGKILL)
    place.ended(process)
    last = place.made_by(name)[-1 if fills_output else 0]
    if not (folder / last / ("manifest.json" if fills_output else "summary.json")).exists():
      break
    shutil.rmtree(folder)
    place.prepared(name, folder)
  # A complete store is looked at again only if something is made of it.
  begun = (folder / made for made in place.made_by(name) if not (folder / made / "summary.json").exists())
  found = (path for filled in begun for path in sorted(filled.rglob("*")))
  made = [path for path in found if path.suffix in ON_RECORD]
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
  """Makes the wall clock a day early, right, or a day late, by turns from second to second."""
  outcome = Outcome(f"a clock that jumps by a day, {name}", injected=1)
  folder = place.prepared(name, place.folder / f"clock_{name}")
  status, told = place.run(name, folder, {"LD_PRELOAD": shim() or "", "WINNOW_FAULT_CLOCK": "86400"})
  if status != 0:
    outcome.notes.append(f"{name}: with a jumping clock it ended with {status}: {told[-500:]}")
  place.compare(name, folder, outcome)
  return outcome


def two_at_once(place: Place, name: str) -> Outcome:
  """Runs the same command twice at once on the same folder."""
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
  """Gives a run too little memory for its shapes: it must say so before the first document, with the flag to lower."""
  outcome = Outcome("too little memory for the shapes, score", injected=1)
  folder = place.prepared("score", place.folder / "little_memory")
  limit = f"ulimit -v {12 << 20}; exec "
  command = [sys.executable, "-m", "pipelines.main", *place.arguments("score", workers=1), "--batch_tokens=400000000"]
  process = subprocess.run(
    ["bash", "-c", limit + ' "$@"', "bash", *command],
    cwd=folder,
    env=environment(),
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
  rerun = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, check=False)
  if rerun.returncode:
    outcome.notes.append(f"with less to hold it ended with {rerun.returncode}: {rerun.stderr[-500:].decode()}")
  place.compare("score", folder, outcome)
  return outcome
