"""Measures how well a rater tells texts from damaged ones: `python -m curation.demo.rater.evaluate --input=FOLDER`."""

import argparse
import json
import pathlib
import sys
from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa

from curation.demo import rater as demo_rater
from curation.demo.rater import damage
from curation.demo.training import measuring, texts
from curation.models import checkpoints
from curation.scorers import ask_llm

LABELLED_FILE = "labelled/dclm_majority_499.jsonl"


def area_under_curve(above: np.ndarray, below: np.ndarray) -> float:
  """Returns the probability that one of `above` exceeds one of `below`, ties counted half (Mann and Whitney 1947)."""
  below = np.sort(below)
  places = np.searchsorted(below, above, "left") + np.searchsorted(below, above, "right")
  return float(np.mean(places) / (2 * len(below)))


def score_texts(scorer: ask_llm.AskLlmScorer, documents: list[str]) -> np.ndarray:
  """Computes log P(yes) of texts: float32 [N]."""
  return scorer.run(scorer.prepare(pa.array(documents, pa.string()))).scores


def damage_areas(
  scorer: ask_llm.AskLlmScorer, real: list[str], kinds: dict[str, damage.Damage], *, seed: int
) -> dict[str, float]:
  """Computes the area under the curve of texts against damaged ones, by kind of damage and for 'all' kinds together."""
  real_N = score_texts(scorer, real)
  damaged = {}
  for name, kind in kinds.items():
    generator = np.random.default_rng([seed, 4])
    damaged[name] = score_texts(scorer, [kind(text, generator) for text in real])
  areas = {name: area_under_curve(real_N, scores_N) for name, scores_N in damaged.items()}
  return areas | {"all": area_under_curve(real_N, np.concatenate(list(damaged.values())))}


def held_out_texts(pool: list[str], *, limit: int, seed: int) -> list[str]:
  """Returns up to `limit` texts, never trained on and long enough for every kind of damage, in random order."""
  fit = [text for text, out in zip(pool, texts.held_out(pool), strict=True) if out]
  fit = [text for text in fit if len(set(text.split())) >= damage.MIN_WORDS]
  return [fit[i] for i in np.random.default_rng([seed, 5]).permutation(len(fit))[:limit]]


def evaluate(
  scorer: ask_llm.AskLlmScorer,
  pools: dict[str, list[str]],
  *,
  limit: int,
  seed: int,
  log: Callable[[str], None] = print,
) -> None:
  """Prints areas by pool and kind of damage, and quantiles of the scores of each pool's held-out texts."""
  for name, pool in pools.items():
    real = held_out_texts(pool, limit=limit, seed=seed)
    log(f"{name}: {len(real):,} held-out texts; log P(yes) at 5, 25, 50, 75 and 95%:")
    log("  " + "  ".join(f"{q:.3f}" for q in np.percentile(score_texts(scorer, real), [5, 25, 50, 75, 95])))
    for title, kinds in (("trained", damage.KINDS), ("not trained", damage.UNSEEN_KINDS)):
      for kind, area in damage_areas(scorer, real, kinds, seed=seed).items():
        log(f"  {title:12s} {kind:18s} {area:.4f}")


def main(argv: Sequence[str] | None = None) -> int:
  return measuring.run_command(
    argv,
    "rater",
    shipped=demo_rater.folder(),
    shared="c4/ and labelled/",
    load=checkpoints.load_checkpoint,
    measure=_measure,
  )


def _measure(checkpoint: checkpoints.Checkpoint, pools: dict[str, list[str]], arguments: argparse.Namespace) -> None:
  scorer = ask_llm.AskLlmScorer(checkpoint)
  evaluate(scorer, pools, limit=arguments.limit, seed=arguments.seed)
  if arguments.shared:
    lines = pathlib.Path(arguments.shared, LABELLED_FILE).read_text().splitlines()
    records = [json.loads(line) for line in lines]
    keep_N = np.array([record["label"] == 1 for record in records])
    scores_N = score_texts(scorer, [record["text"] for record in records])
    print(f"DCLM's labels, keep against drop: {area_under_curve(scores_N[keep_N], scores_N[~keep_N]):.4f}")
  real = held_out_texts(pools["input"], limit=arguments.limit, seed=arguments.seed)
  no_scorer = ask_llm.AskLlmScorer(checkpoint, ask_llm.Prompt(yes_token="no"))
  sums_N = np.exp(score_texts(scorer, real)) + np.exp(score_texts(no_scorer, real))
  print(f"P(yes) + P(no): {sums_N.min():.5f} to {sums_N.max():.5f}")


if __name__ == "__main__":
  sys.exit(main())
