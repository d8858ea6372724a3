"""Times Winnow's scoring as run_peer.py times a peer's, and measures sgemm before and after."""

import json
import sys
from pathlib import Path

import bench_scoring
import numpy as np
import pyarrow as pa
from peers import run_peer

from curation.models import checkpoints, engine, t5
from curation.scorers import ask_llm


def winnow(folder: Path, task: run_peer.Task) -> run_peer.Score:
  engine.enable_compilation_cache(folder / "compiled")
  scorer = ask_llm.AskLlmScorer(
    checkpoints.load_checkpoint(str(folder / "checkpoint")), max_input_tokens=task["max_input_tokens"]
  )
  scorer.warm_up()

  def score(texts: list[str]) -> np.ndarray:
    return scorer.run(scorer.prepare(pa.array(texts))).scores

  # Only Winnow's process knows the work in these texts, and which of them the limit truncates.
  lengths_N = scorer.prepare(pa.array(task["texts"])).batches.lengths_N
  work = {"lengths": lengths_N.tolist(), "flops": float(t5.useful_flops(scorer.config, lengths_N).sum())}
  (folder / "work.json").write_text(json.dumps(work))
  return score


def main() -> None:
  before = bench_scoring.sgemm_flops()
  run_peer.main({"winnow": winnow})
  result = Path(sys.argv[3])
  limit = (before + bench_scoring.sgemm_flops()) / 2
  result.write_text(json.dumps({**json.loads(result.read_text()), "sgemm": limit}))


if __name__ == "__main__":
  main()
