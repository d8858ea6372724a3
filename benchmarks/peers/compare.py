"""Compares Ask-LLM in Winnow and its peers: one checkpoint, the same documents, one run, each in its own process.

`make bench-peers` installs the peers into .venv-peers and runs this; ARGS='--size=small' passes arguments to it.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import bench_scoring
import common
import numpy as np

from curation.models import random_t5, vocabulary
from curation.scorers import ask_llm

PEERS_PYTHON = common.PROJECT / ".venv-peers/bin/python"
MAX_INPUT_TOKENS = 512
# For the peers, since Winnow has its own. No other value up to 8,192 is faster for CTranslate2 and transformers
# (T5-small, 2 cores).
BATCH_TOKENS = 2_048


class Row(NamedTuple):
  """A row of the table: an engine and the packages that it is made of."""

  name: str
  packages: tuple[str, ...] = ()
  exact: bool = True
  """Whether the scores should equal Winnow's to within float32's rounding."""


ROWS = {
  "winnow": Row("Winnow"),
  "nano_askllm": Row("nano-askllm, batches of 8", ("nano-askllm", "transformers", "torch")),
  "transformers": Row("transformers, sorted batches", ("transformers", "torch")),
  "ctranslate2_float32": Row("CTranslate2 float32", ("ctranslate2",)),
  "ctranslate2_int8": Row("CTranslate2 int8", ("ctranslate2",), exact=False),
}
NOTES = """\
Every row: text in, log P(yes) out, tokenising included, float32 except for int8, one thread a core. Median of rounds.
All peers except nano-askllm tokenise with SentencePiece in whole blocks and truncate documents as Winnow does.
nano-askllm removes "###" from documents, and tokenises truncated ones again: its scores are compared on documents that
need neither.
of sgemm: the same useful operations (without padding, cross-attention folded as in Winnow) for every row."""


def write_task(folder: Path, texts: list[str], size: str) -> None:
  """Writes the checkpoint, the documents and the question as files."""
  vocabulary_texts = list(itertools.islice(common.documents(1_445), 1_445))
  checkpoint = random_t5.write_random_checkpoint(
    folder / "checkpoint", vocabulary_texts, pieces=bench_scoring.PIECES, **bench_scoring.SIZES[size]
  )
  prompt = ask_llm.Prompt()
  task = {
    "texts": texts,
    "prefix": prompt.prefix,
    "suffix": prompt.suffix,
    "yes": prompt.yes_token,
    "yes_piece": random_t5.ANSWERS[0],
    "yes_id": vocabulary.Vocabulary((checkpoint / "spiece.model").read_bytes()).answer_id(prompt.yes_token),
    "max_input_tokens": MAX_INPUT_TOKENS,
    "batch_tokens": BATCH_TOKENS,
    "threads": vocabulary.usable_cores(),
  }
  (folder / "task.json").write_text(json.dumps(task))


def run(engine: str, folder: Path) -> dict | str:
  """Runs one engine in a process; returns its result, or why there is none."""
  module, python = ("run_winnow", Path(sys.executable)) if engine == "winnow" else ("run_peer", PEERS_PYTHON)
  if not python.exists():
    return f"{python.relative_to(common.PROJECT)} is not installed"
  threads = str(vocabulary.usable_cores())
  environment = {**os.environ, "OMP_NUM_THREADS": threads, "TRANSFORMERS_VERBOSITY": "error", "HF_HUB_OFFLINE": "1"}
  if engine != "winnow":
    environment.pop("PYTHONPATH", None)
  result = folder / "result.json"
  result.unlink(missing_ok=True)
  done = subprocess.run(
    [python, "-m", f"peers.{module}", engine, folder, result],
    cwd=common.PROJECT / "benchmarks",
    env=environment,
    capture_output=True,
    text=True,
    check=False,
  )
  if done.returncode:
    return (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
  return json.loads(result.read_text())


def versions(packages: tuple[str, ...]) -> str:
  code = "import importlib.metadata as m, sys; print(', '.join(f'{p} {m.version(p)}' for p in sys.argv[1:]))"
  return subprocess.run(
    [PEERS_PYTHON, "-c", code, *packages], capture_output=True, text=True, check=True
  ).stdout.strip()


def ranks(values: np.ndarray) -> np.ndarray:
  return np.argsort(np.argsort(values, kind="stable"), kind="stable")


def agreement(scores_N: np.ndarray, winnow_N: np.ndarray, *, exact: bool) -> str:
  """Says in words how well the scores agree with Winnow's."""
  difference = f"max |difference| {np.abs(scores_N - winnow_N).max():.1e}"
  if exact:
    return f"{difference} over {len(scores_N):,} documents"
  ours, theirs = ranks(winnow_N), ranks(scores_N)
  top = max(1, len(ours) // 5)
  common_top = np.intersect1d(np.argsort(-ours)[:top], np.argsort(-theirs)[:top]).size / top
  return f"{difference}, rank correlation {np.corrcoef(ours, theirs)[0, 1]:.4f}, {common_top:.1%} of the top 20%"


def compare() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--size", choices=tuple(bench_scoring.SIZES), default="base")
  parser.add_argument("--documents", type=int, default=300, help="distinct up to 1,445, the size of the sample")
  parser.add_argument("--rounds", type=int, default=3)
  namespace = parser.parse_args()
  common.print_machine()
  texts = list(common.documents(namespace.documents))
  results: dict[str, list[dict]] = {engine: [] for engine in ROWS}
  missing: dict[str, str] = {}
  with tempfile.TemporaryDirectory(prefix="winnow-peers-") as place:
    folder = Path(place)
    write_task(folder, texts, namespace.size)
    converted = run("convert", folder)
    if isinstance(converted, str):
      missing |= dict.fromkeys((engine for engine in ROWS if engine.startswith("ctranslate2")), converted)
    for turn in range(namespace.rounds):
      engines = list(ROWS)
      for engine in engines[turn % len(engines) :] + engines[: turn % len(engines)]:
        if engine in missing:
          continue
        result = run(engine, folder)
        if isinstance(result, str):
          missing[engine] = result
        else:
          results[engine].append(result)
          print(f"  round {turn + 1}, {engine}: {result['seconds']:.1f} s", flush=True)
    if "winnow" in missing:
      sys.exit(f"Winnow itself failed: {missing['winnow']}")
    work = json.loads((folder / "work.json").read_text())
  print_table(namespace.size, texts, work, results, missing)


def print_table(
  size: str, texts: list[str], work: dict, results: dict[str, list[dict]], missing: dict[str, str]
) -> None:
  lengths_N = np.array(work["lengths"])
  whole_N = (lengths_N < MAX_INPUT_TOKENS) & np.array(["###" not in text for text in texts])
  winnow_N = np.array(results["winnow"][0]["scores"])
  seconds = {
    engine: float(np.median([result["seconds"] for result in rounds])) for engine, rounds in results.items() if rounds
  }
  limit = float(np.median([result["sgemm"] for result in results["winnow"]]))
  print(
    f"T5-{size} size, random weights, {len(texts):,} documents ({common.corpus_name()}), {lengths_N.sum():,} tokens"
  )
  print(f"limit: sgemm {limit / 1e9:.0f} GFLOP/s, in Winnow's process before and after scoring")
  print(f"{'':<30}{'documents/s':>12}{'tokens/s':>10}{'Winnow/it':>11}{'of sgemm':>10}   scores against Winnow's")
  for engine, row in ROWS.items():
    if engine in missing:
      print(f"{row.name:<30}not available: {missing[engine]}")
      continue
    taken = seconds[engine]
    chosen_N = whole_N if engine == "nano_askllm" else np.ones(len(texts), bool)
    scores_N = np.array(results[engine][0]["scores"])
    words = agreement(scores_N[chosen_N], winnow_N[chosen_N], exact=row.exact) if engine != "winnow" else ""
    print(
      f"{row.name:<30}{len(texts) / taken:>12.1f}{lengths_N.sum() / taken:>10,.0f}{taken / seconds['winnow']:>10.2f}x"
      f"{work['flops'] / taken / limit:>10.2f}   {words}"
    )
  print(NOTES)
  installed = [engine for engine in ROWS if engine != "winnow" and engine not in missing]
  packages = tuple(dict.fromkeys(package for engine in installed for package in ROWS[engine].packages))
  if packages:
    print(versions(packages))


if __name__ == "__main__":
  compare()
