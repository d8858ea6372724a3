"""The paper's main experiment in miniature: `make data-efficiency`.

Which sample of a corpus makes the better T5, at equal compute? The real commands score the corpus by every sampler and
sample it at every rate. A tiny T5 is trained on each sample for the same number of steps, and `winnow evaluate`
measures its perplexity on clean held-out text. Run again in the same --folder, the experiment resumes.
"""

import argparse
import concurrent.futures
import itertools
import json
import os
import pathlib
import queue
import shutil
import subprocess
import sys
from collections.abc import Iterable
from typing import NamedTuple

import common
from data_efficiency import corpus, results
from data_efficiency.results import ALL

from curation.demo import embedder as demo_embedder
from curation.demo import rater as demo_rater
from pipelines.output import manifests

RATES = (20, 40, 60)
SCORERS = ("density", "perplexity", "ask_llm")
# Samplers that draw a new sample for each seed; for the others a seed changes the training alone.
DRAWN = (ALL, "random", "density")
RATER_SEED = 1_000  # neither its sample nor its training is among those compared


class Run(NamedTuple):
  """One training run."""

  sampler: str
  rate: int
  seed: int

  @property
  def name(self) -> str:
    """The folder of the run's model."""
    return f"{self.sampler}_{self.rate}_{self.seed}"

  @property
  def sample(self) -> str:
    """The folder of the run's sample."""
    return self.name if self.sampler in DRAWN else f"{self.sampler}_{self.rate}"


class Settings(NamedTuple):
  """The settings of an experiment."""

  folder: pathlib.Path
  steps: int
  batch_size: int
  seeds: int
  seed: int

  @property
  def inputs(self) -> str:
    return f"--input={self.folder}/corpus/mixed-*"

  @property
  def scores(self) -> str:
    return f"--scores={self.folder}/scores"


def runs(seeds: int) -> list[Run]:
  """Returns all runs to compare, ordered by seed."""
  return [
    Run(*kind, seed) for seed in range(seeds) for kind in [(ALL, 100), *itertools.product(("random", *SCORERS), RATES)]
  ]


def command(name: str, log: pathlib.Path, arguments: Iterable[str], **environment: str) -> None:
  """Runs `python -m NAME`; raises SystemExit that names the log if it failed."""
  log.parent.mkdir(exist_ok=True)
  variables = {**os.environ, "PYTHONPATH": str(common.PROJECT), "TF_CPP_MIN_LOG_LEVEL": "3", **environment}
  with open(log, "a") as file:
    status = subprocess.run(
      [sys.executable, "-m", name, *arguments], stdout=file, stderr=file, env=variables, check=False
    ).returncode
  if status:
    raise SystemExit(f"{name} ended with status {status}; {log} says why")


def winnow(settings: Settings, log: str, *arguments: str) -> None:
  """Runs a command of Winnow, with a log of its own."""
  print(f"winnow {' '.join(arguments[:1])}: {log}", flush=True)
  command("pipelines.main", settings.folder / f"logs/{log}.log", arguments)


def draw(settings: Settings, run: Run) -> None:
  """Draws the sample of a run, unless another run of the same sampler has drawn it."""
  output = settings.folder / "samples" / run.sample
  if (output / manifests.MANIFEST_FILE).exists():
    return
  where = [f"--output={output}", "--num_shards=1", f"--seed={run.seed}", f"--rate={run.rate / 100}"]
  sampler = "random" if run.sampler == ALL else run.sampler
  source = settings.inputs if sampler == "random" else settings.scores
  winnow(settings, f"sample_{run.sample}", "sample", f"--sampler={sampler}", source, *where)


def train(settings: Settings, run: Run, core: int) -> None:
  """Trains on one core, so that as many runs as there are cores train in parallel."""
  folder = settings.folder / "models" / run.name
  if (folder / f"checkpoint-{settings.steps}").exists():
    return
  shutil.rmtree(folder, ignore_errors=True)
  arguments = [str(core), f"{settings.folder}/samples/{run.sample}", f"--model_dir={folder}", f"--seed={run.seed}"]
  arguments += [f"--vocabulary={settings.folder}/spiece.model"]
  arguments += [f"--steps={settings.steps}", f"--batch_size={settings.batch_size}"]
  command(
    "data_efficiency.train_on_core",
    settings.folder / f"logs/train_{run.name}.log",
    arguments,
    PYTHONPATH=f"{common.PROJECT}{os.pathsep}{common.PROJECT}/benchmarks",
    XLA_FLAGS="--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
  )
  print(f"trained {run.name}", flush=True)


def train_all(settings: Settings, chosen: list[Run]) -> None:
  """Trains the runs in parallel, one on each core."""
  cores: queue.SimpleQueue[int] = queue.SimpleQueue()
  for core in sorted(os.sched_getaffinity(0)):
    cores.put(core)

  def on_a_core(run: Run) -> None:
    core = cores.get()
    try:
      train(settings, run, core)
    finally:
      cores.put(core)

  with concurrent.futures.ThreadPoolExecutor(cores.qsize()) as pool:
    for _ in pool.map(on_a_core, chosen):
      pass


def run_experiment(settings: Settings) -> None:
  """Runs all parts of the experiment, except those that are done."""
  folder = settings.folder
  if not (folder / "spiece.model").exists():
    pools = corpus.read_pools(common.SHARED_C4 if common.SHARED_C4.exists() else None)
    corpus.write(corpus.build(pools, settings.seed), folder)
  scoring = [settings.inputs, settings.scores]
  winnow(settings, "ask_llm", "score", *scoring, f"--model={demo_rater.folder()}", "--name=ask_llm_demo")
  embedder = f"--model={demo_embedder.folder()}"
  winnow(settings, "density", "score", "--scorer=density", *scoring, embedder, "--name=density_demo")
  # Perplexity filtering (B.5) by a T5 trained on the whole corpus, damage included, like the paper's on C4.
  rater = Run(ALL, 100, RATER_SEED)
  draw(settings, rater)
  train_all(settings, [rater])
  model = f"{folder}/models/{rater.name}/checkpoint-{settings.steps}"
  windows = "--max_input_tokens=128"  # the length that they are trained with
  how = ["--scorer=perplexity", f"--model={model}", windows, "--name=perplexity_tiny"]
  winnow(settings, "perplexity", "score", *how, *scoring)
  chosen = runs(settings.seeds)
  for run in chosen:
    draw(settings, run)
  train_all(settings, chosen)
  held_out = ",".join(str(path) for path in sorted((folder / "held_out").iterdir()))
  trained = ",".join(f"{folder}/models/{run.name}/checkpoint-{settings.steps}" for run in chosen)
  where = [f"--input={held_out}", f"--scores={folder}/evaluation"]
  winnow(settings, "evaluate", "evaluate", f"--models={trained}", windows, *where)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
  parser.add_argument(
    "--folder", type=pathlib.Path, default="data-efficiency", help="where everything is kept (default: %(default)s)"
  )
  parser.add_argument("--steps", type=int, default=600)
  parser.add_argument("--batch_size", type=int, default=32)
  parser.add_argument("--seeds", type=int, default=3, help="trainings of each sample")
  parser.add_argument("--corpus_seed", type=int, default=0)
  parser.add_argument("--write", action="store_true", help="write the table and the plot into docs/")
  arguments = parser.parse_args()
  folder = arguments.folder.absolute()
  folder.mkdir(parents=True, exist_ok=True)
  common.print_machine()
  settings = Settings(folder, arguments.steps, arguments.batch_size, arguments.seeds, arguments.corpus_seed)
  _refuse_other(folder / "settings.json", {**settings._asdict(), "folder": None, "seeds": None})
  run_experiment(settings)
  rows = results.read(folder, runs(settings.seeds), lambda run: run.sample)
  print(results.to_markdown(rows))
  if arguments.write:
    results.write(rows)


def _refuse_other(path: pathlib.Path, settings: dict) -> None:
  """Raises SystemExit if the folder has results of other settings."""
  if path.exists() and json.loads(path.read_text()) != settings:
    raise SystemExit(f"{path} holds other settings; choose another --folder")
  path.write_text(json.dumps(settings))


if __name__ == "__main__":
  main()
