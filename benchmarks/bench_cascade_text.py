"""Cascades on real text: the demo's corpus, the demo rater as teacher, and the rater on less of each text as proxy.

Everything is scored as well, to know the truth. Prints the table of docs/cascade.md, and the seconds of each command.
"""

import argparse
import json
import pathlib
import tempfile
import time

import common
import pyarrow as pa
import pyarrow.parquet as pq
import scipy.stats

from curation.demo import corpus as demo_corpus
from curation.demo import rater as demo_rater
from curation.selection import cascade

PROXIES = (104, 160, 256, 384, 512)  # tokens of each text with its question, which takes 72
TRUTH = 512
RATES = ("0.1", "0.3")
PROMISE = cascade.Promise()


def timed(*arguments: str) -> float:
  """Runs a command with one worker; returns its seconds."""
  started = time.perf_counter()
  common.winnow(*arguments, "--direct_num_workers=1")
  return time.perf_counter() - started


def read_scores(store: pathlib.Path) -> dict[tuple[str, int], float]:
  """Returns the scores of a store by document."""
  table = pa.concat_tables([pq.read_table(path) for path in sorted((store / "shards").iterdir())])
  documents = zip(table["shard"].to_pylist(), table["row"].to_pylist(), strict=True)
  return dict(zip(documents, table["score"].to_pylist(), strict=True))


def row_of(folder: pathlib.Path, tokens: int, rate: str, seconds: str) -> str:
  """Returns the table's row of a cascade that was run."""
  record = json.loads((folder / f"{tokens}_{rate}/manifest.json").read_text())["cascade"]
  wanted = record["certificate"]["wanted"]
  truth, proxy = read_scores(folder / f"scores/tokens_{TRUTH}"), read_scores(folder / f"scores/tokens_{tokens}")
  scored = read_scores(folder / f"scores/of_{tokens}_cascade_{wanted}")
  if any(truth[document] != score for document, score in scored.items()):
    raise SystemExit("the cascade's scores differ from those of everything")
  floor = sorted(truth.values())[-wanted]
  best = [document for document, score in truth.items() if score >= floor]  # with those that tie with the last
  kept = sum(document in scored for document in best) / len(best)
  least = sorted(proxy[document] for document in best)[PROMISE.losses(wanted)]
  oracle = sum(score >= least for score in proxy.values()) / len(proxy)
  order = list(truth)
  rho = scipy.stats.spearmanr([truth[d] for d in order], [proxy[d] for d in order]).statistic
  share = record["asked"] / len(truth)
  return f"| {tokens} tokens | {rho:.2f} | {rate} | {share:.0%} | {oracle:.0%} | {kept:.3f} | {seconds} |"


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--audit", type=int, default=1500)
  parser.add_argument("--proxies", type=int, nargs="+", default=PROXIES)
  arguments = parser.parse_args()
  common.print_machine()
  with tempfile.TemporaryDirectory() as made:
    folder = pathlib.Path(made)
    written = demo_corpus.write_demo_corpus(folder / "corpus")
    given = [f"--input={written.pattern}", f"--model={demo_rater.folder()}", f"--scores={folder / 'scores'}"]
    scoring = {
      tokens: timed("score", *given, f"--max_input_tokens={tokens}", f"--name=tokens_{tokens}")
      for tokens in sorted({TRUTH, *arguments.proxies})
    }
    print(f"{written.documents:,} documents, an audit of {arguments.audit:,}; all scored in {scoring[TRUTH]:.0f} s")
    print("| proxy | rank correlation | rate | asked, with the audit | by an oracle's threshold alone | recall | s |")
    print("|---|---|---|---|---|---|---|")
    for tokens in arguments.proxies:
      for rate in RATES:
        seconds = timed(
          *("curate", *given, f"--max_input_tokens={TRUTH}", f"--name=of_{tokens}", f"--proxy=tokens_{tokens}"),
          *(f"--audit={arguments.audit}", f"--rate={rate}", f"--output={folder / f'{tokens}_{rate}'}"),
        )
        shown = f"{scoring[tokens]:.0f} + {seconds:.0f}" if rate == RATES[0] else f"{seconds:.0f}, audit on record"
        print(row_of(folder, tokens, rate, shown), flush=True)
      timed("verify", str(folder / f"{tokens}_{RATES[0]}"))


if __name__ == "__main__":
  main()
