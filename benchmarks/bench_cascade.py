"""The promise of a cascade, simulated: how often too much is lost, and the share asked beside that of an oracle."""

import argparse
import pathlib
import tempfile
import threading
import time

import apache_beam as beam
import bench_selection
import common
import numpy as np
import psutil
import pyarrow as pa
import pyarrow.compute as pc
import scipy.stats

from curation.selection import cascade, selection
from pipelines.corpus import blocks
from pipelines.files import fingerprints
from pipelines.runners import launch
from pipelines.selection import cascade as cascades
from pipelines.selection import ranks
from pipelines.store import block_files, score_files, score_store, sealing

PROMISE = cascade.Promise()
CORRELATIONS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
RATES = (0.05, 0.1, 0.2, 0.4)


def proxies(generator: np.random.Generator, documents: int, rate: float) -> dict[str, tuple[np.ndarray, np.ndarray]]:
  """Returns pairs of scores and proxy scores, all but the first ones made to break the promise."""
  noise, scores = generator.standard_normal((2, documents))
  pairs = {
    f"correlation {correlation}": (scores, correlation * scores + np.sqrt(1 - correlation**2) * noise)
    for correlation in CORRELATIONS
  }
  good = 0.9 * scores + np.sqrt(0.19) * noise
  best = scores >= np.sort(scores)[-round(rate * documents)]
  pairs |= {
    "0.9, ties of one decimal": (np.round(scores, 1), np.round(good, 1)),
    "0.9, two proxy values": (scores, (good > 0.5).astype(float)),
    "constant": (scores, np.zeros(documents)),
    "anti-correlated": (scores, -good),
    # More of the best than may be lost lie just below the oracle's threshold, and the next ones far below it.
    "a cliff of the best": (scores, np.where(best & (noise < -1.6), -9 + noise, good)),
    "the best are alike but few": (scores, np.where(best, np.where(noise < -1.55, -9.0, 9.0), noise)),
    "reversed among the best": (scores, np.where(best, 10 - scores, scores)),
  }
  return pairs


def simulate(
  generator: np.random.Generator, pair: tuple[np.ndarray, np.ndarray], *, rate: float, audited: int, audits: int
) -> dict[str, float]:
  """Draws audits of one corpus, and returns the share of broken promises and the mean share asked."""
  scores, proxy = pair
  documents = len(scores)
  wanted = int(rate * documents + 0.5)
  ties = generator.permutation(documents)
  # Places stand for values and hashes: no two are equal, and comparisons are those of (score, hash).
  place = np.empty(documents, np.int64)
  place[np.lexsort((ties, proxy))] = np.arange(documents)
  best_first = np.lexsort((ties, scores))[::-1]
  score_place = np.empty(documents, np.int64)
  score_place[best_first] = np.arange(documents)
  best, losses = best_first[:wanted], PROMISE.losses(wanted)
  oracle = documents - np.sort(place[best])[losses]
  bounds = cascade.num_best(documents, wanted, audited, PROMISE)
  assert bounds is not None
  broken, asked = 0, []
  for _ in range(audits):
    taken = generator.choice(documents, audited, replace=False)
    chosen = (
      taken[np.argpartition(score_place[taken], bounds.best - 1)[: bounds.best]] if bounds.best < audited else taken
    )
    threshold = np.partition(place[chosen], bounds.spared)[bounds.spared] if bounds.spared < len(chosen) else 0
    below = best[place[best] < threshold]
    broken += len(below) - np.isin(below, taken, assume_unique=True).sum() > losses
    asked.append(documents - threshold)
  return {
    "failures": broken / audits,
    "p_value": float(scipy.stats.binomtest(int(broken), audits, PROMISE.risk, alternative="greater").pvalue),
    "asked": float(np.mean(asked)) / documents,
    "oracle": float(oracle) / documents,
    "ratio": float(np.mean(asked)) / float(oracle),
  }


def settle(folder: pathlib.Path, documents: int) -> None:
  """Settles a cascade over a synthetic store, and prints its speed and its memory above that before."""
  store, shards = bench_selection.write_store(folder / "proxy", "all different", documents, 16)
  summaries = [score_files.read_summary(store, shard) for shard in shards]
  ledger = sealing.seal(store, summaries, shards, max_bad_fraction=1.0, work=())
  request = cascades.audit_request(0, cascade.DEFAULT_AUDIT)
  wanted = selection.SelectionRequest("ask_llm", num_examples=documents // 10)
  audited = write_audit(folder / "audit", store, shards, request, cascade.DEFAULT_AUDIT / documents)
  asked = cascades.Asked(store, request, audited, wanted, PROMISE)
  before, peak, is_over = psutil.Process().memory_info().rss, 0, threading.Event()

  def watch() -> None:
    nonlocal peak
    while not is_over.wait(0.01):
      peak = max(peak, psutil.Process().memory_info().rss)

  watcher = threading.Thread(target=watch)
  watcher.start()
  started = time.perf_counter()
  launch.Launcher(["--direct_num_workers=1"]).run(
    lambda root: root | "Ledger" >> beam.Create([ledger]) | cascades.Settle(asked, shards)
  )
  seconds = time.perf_counter() - started
  is_over.set()
  watcher.join()
  print(
    f"{documents:,} documents settled in {seconds:.1f} s, {documents / seconds / 1e6:.2f} million/s by one worker, "
    f"{(peak - before) / 1e6:.0f} MB above the process before"
  )


def write_audit(
  folder: pathlib.Path,
  proxy: score_store.ScoreStore,
  shards: list[blocks.Shard],
  request: selection.SelectionRequest,
  share: float,
) -> score_store.ScoreStore:
  """Writes the scores of about a share of the documents, at a correlation of about 0.9 with the proxy's."""
  generator = np.random.default_rng(1)
  store_request = {"audit": True, "inputs": [shard.identity() for shard in shards]}
  store = score_store.ScoreStore.for_request(str(folder), store_request)
  fingerprints.claim(store.request_path, store_request, owner="the benchmark's audit")
  floor = int((1 - share) * 2**64) << 64
  for shard in shards:
    with score_files.ScoreFile(proxy, shard) as scores:
      num_blocks = len(scores.summary.block_rows)
      for index in range(num_blocks):
        table = scores.block(index)
        is_drawn = pa.array(ranks.rank_rows(request, shard.name, table).are_wanted(floor))
        noisy = table["score"].to_numpy() + 0.48 * generator.standard_normal(len(table)).astype(np.float32)
        columns = {
          "row": table["row"],
          "score": pc.if_else(is_drawn, pa.array(noisy, pa.float32()), pa.scalar(None, pa.float32())),
          "num_tokens": pa.nulls(len(table), pa.int32()),
          "domain": pa.nulls(len(table), pa.string()),
          "reason": pc.if_else(is_drawn, pa.scalar(None, pa.string()), blocks.LEFT_OUT),
          "text": pc.if_else(is_drawn, pa.scalar(None, pa.string()), ""),
        }
        drawn = pa.table(columns, schema=block_files.BLOCK_SCHEMA)
        block_files.write_block(store, shard, index, block_files.BlockFile(drawn, 0, 0), engine=store.engine())
      block_files.compact_shard(store, shard, num_blocks=num_blocks, num_rows=scores.summary.num_rows)
  return store


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--documents", type=int, default=400_000)
  parser.add_argument("--audit", type=int, default=cascade.DEFAULT_AUDIT)
  parser.add_argument("--audits", type=int, default=500)
  parser.add_argument("--rates", type=float, nargs="+", default=RATES)
  parser.add_argument("--proxies", default="", help="only proxies whose names contain this")
  parser.add_argument("--settle", type=int, help="settle a cascade over so many documents instead")
  arguments = parser.parse_args()
  common.print_machine()
  if arguments.settle:
    with tempfile.TemporaryDirectory() as folder:
      settle(pathlib.Path(folder), arguments.settle)
    return
  generator = np.random.default_rng(0)
  print(
    f"{arguments.audits} audits of {arguments.audit:,} of {arguments.documents:,} documents, risk {PROMISE.risk:.2f}"
  )
  print("| proxy | rate | failures | p | asked | oracle | ratio |\n|---|---|---|---|---|---|---|")
  worst, num = 1.0, 0
  for rate in arguments.rates:
    for name, pair in proxies(generator, arguments.documents, rate).items():
      if arguments.proxies not in name:
        continue
      row = simulate(generator, pair, rate=rate, audited=arguments.audit, audits=arguments.audits)
      worst, num = min(worst, row["p_value"]), num + 1
      print(
        f"| {name} | {rate} | {row['failures']:.1%} | {row['p_value']:.2g} | {row['asked']:.3f} | {row['oracle']:.3f} "
        f"| {row['ratio']:.3f} |",
        flush=True,
      )
  print(f"the smallest p-value of {num}: {worst:.2g}; by chance alone one of {0.05 / num:.1g} would be unusual")


if __name__ == "__main__":
  main()
