"""The setting of faults: a corpus, models, undisturbed runs, and the comparison of a disturbed run with them."""

import collections
import contextlib
import dataclasses
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

import corpora
import processes
import pyarrow.parquet as pq
import tiny_t5
from running import content

PROJECT = pathlib.Path(__file__).resolve().parents[2]
SECONDS = 240  # the most that a command may take
COMMANDS = ("score", "embed", "density", "sample", "curate", "stages")
_RECIPE = """
num_clusters: 3
max_cluster_pairs: 600000
kmeans_sample: 50
kmeans_iterations: 5
stages:
- {scorer: minhash, threshold: 1}
- {scorer: semdedup, rate: 0.75}
- {scorer: prototypes, rate: 0.4}
"""
_STORES_OF_STAGES = (
  *("signatures_128", "minhash", "embedded", "clusters_embedded_stage2", "semdedup_embedder_stage2"),
  *("clusters_embedded_stage3", "prototypes_embedder_stage3"),
)
ON_RECORD = (".parquet", ".run", ".safetensors")


@dataclasses.dataclass
class Outcome:
  """The outcome of one kind of fault: how often it was injected, and how often the rerun gave the undisturbed bytes."""

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
  """A corpus, models, and an undisturbed run of each of some commands, with two worker processes each."""

  def __init__(self, folder: pathlib.Path, *, big_rows: int, small_rows: int, commands: tuple[str, ...] = COMMANDS):
    self.folder = folder
    corpora.write_corpus(folder / "corpus", big_rows=big_rows, small_rows=small_rows)
    corpora.write_model(folder / "model")
    tiny_t5.make_sentence_t5(folder / "embedder")
    (folder / "prompt.txt").write_text(corpora.PROMPT)
    (folder / "stages.yaml").write_text(_RECIPE)
    self.undisturbed = folder / "undisturbed"
    self._errors: dict[int, pathlib.Path] = {}
    self.seconds: dict[str, float] = {}
    self.undisturbed.mkdir()
    for name in commands:
      started = time.monotonic()
      status, told = self.run(name, self.undisturbed)
      assert status == 0, told
      self.seconds[name] = time.monotonic() - started

  def arguments(self, name: str, *, corpus: str = "corpus", workers: int = 2, root: str = "") -> list[str]:
    """Returns the command; `root` is the place of its stores and outputs, if it is a bucket's folder, with a slash."""
    reading = [f"--input={self.folder / corpus}/*", "--block_rows=400", "--max_bad_fraction=0.1"]
    asking = [f"--model={self.folder}/model", f"--prompt_file={self.folder}/prompt.txt", "--max_input_tokens=32"]
    embedding = [f"--model={self.folder}/embedder", "--embedding_name=embedded"]
    drawing = ["--rate=0.3", "--num_shards=5"]
    both = [f"--scores={root}scores_too", "--name=both", f"--output={root}curated"]
    staged = [f"--scores={root}scores_of_stages", f"--output={root}staged", "--num_shards=5"]
    quotas = ["--group_by=domain", "--group_rate=0.8"]
    scores = f"--scores={root}scores"
    flags = {
      "score": ["score", *reading, *asking, scores, "--name=asked"],
      "embed": ["embed", *reading, embedding[0], scores, "--name=embedded"],
      "density": ["score", "--scorer=density", *reading, *embedding, scores, "--name=dense", "--sketch_rows=50"],
      "sample": ["sample", scores, "--sampler=ask_llm", "--name=asked", f"--output={root}sampled", *drawing, *quotas],
      "curate": ["curate", *reading, *asking, *both, *drawing],
      "stages": ["curate", f"--recipe={self.folder}/stages.yaml", *reading, *embedding, *staged],
    }
    return [*flags[name], f"--direct_num_workers={workers}", *(["--no_auth"] if root else [])]

  def made_by(self, name: str) -> tuple[str, ...]:
    """Returns the folders that a command fills."""
    return {
      "score": ("scores/asked",),
      "embed": ("scores/embedded",),
      "density": ("scores/dense", "scores/embedded"),
      "sample": ("sampled",),
      "curate": ("scores_too/both", "curated"),
      "stages": (*(f"scores_of_stages/{name}" for name in _STORES_OF_STAGES), "staged"),
    }[name]

  def start(self, name: str, folder: pathlib.Path, more: dict | None = None, **how) -> subprocess.Popen:
    command = [sys.executable, "-m", "pipelines.main", *self.arguments(name, **how)]
    # A file and not a pipe, which an orphaned worker would hold open; and not on a disk that may be full.
    handle, path = tempfile.mkstemp(dir=self.folder, prefix="errors-")
    process = subprocess.Popen(
      command,
      cwd=folder,
      stdout=subprocess.DEVNULL,
      stderr=handle,
      start_new_session=True,
      env=environment() | (more or {}),
    )
    os.close(handle)
    self._errors[process.pid] = pathlib.Path(path)
    return process

  def run(self, name: str, folder: pathlib.Path, more: dict | None = None, **how) -> tuple[int, str]:
    """Returns the exit status and what was said on standard error. `more` is added to the environment."""
    return self.ended(self.start(name, folder, more, **how))

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
    """Returns a folder in which the command can start: it has the store that a sample needs."""
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


def environment() -> dict[str, str]:
  """Returns the environment in which commands run this tree's code, whatever is installed."""
  return os.environ | {"PYTHONPATH": str(PROJECT)}


def _documents(folder: pathlib.Path) -> collections.Counter:
  """Counts how often each scored document is in a store's shards."""
  documents: collections.Counter = collections.Counter()
  for path in folder.glob("shards/*.parquet"):
    with contextlib.suppress(OSError):  # one that is damaged holds none
      table = pq.read_table(path, columns=["row"])
      documents.update((path.name, row) for row in table["row"].to_pylist())
  return documents


def files_on_record(folder: pathlib.Path) -> int:
  """Counts the whole files of stores and outputs."""
  return sum(path.suffix in ON_RECORD and not path.name.startswith(".") for path in folder.rglob("*"))


def wait_for(condition: Callable[[], bool], process: subprocess.Popen) -> bool:
  """Waits until a condition holds; returns False if the process ends before."""
  while process.poll() is None:
    if condition():
      return True
    time.sleep(0.01)
  return False


def kill(process: subprocess.Popen, generator: random.Random) -> str:
  """Kills a command as machines, schedulers and the OOM killer do: all of it, its launcher, or one worker."""
  victims = {"all": [process.pid]}
  workers = processes.local_workers(process.pid)
  if len(workers) == 2:
    victims |= {"launcher": [process.pid], "worker": [generator.choice(workers).pid]}
  how = generator.choices(list(victims), [2, 1, 1][: len(victims)])[0]
  with contextlib.suppress(ProcessLookupError):
    if how == "all":
      os.killpg(process.pid, signal.SIGKILL)
    else:
      os.kill(victims[how][0], signal.SIGKILL)
  return how
