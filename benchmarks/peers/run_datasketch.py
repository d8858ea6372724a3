"""Times datasketch's MinHash and LSH over texts, in the peers' environment and in its own process, without Winnow.

Arguments: TEXTS RESULT. TEXTS is JSON with texts, hashes and similarity; RESULT gets the seconds and the pairs found.
"""

import json
import re
import sys
import time
from pathlib import Path

import datasketch

WORD = re.compile(r"[^\W_]+")
SHINGLE_WORDS = 5


def shingles(text: str) -> list[bytes]:
  words = WORD.findall(text.lower())
  return [" ".join(words[i : i + SHINGLE_WORDS]).encode() for i in range(max(1, len(words) - SHINGLE_WORDS + 1))]


def main() -> None:
  task = json.loads(Path(sys.argv[1]).read_text())
  started = time.perf_counter()
  minhashes = datasketch.MinHash.bulk(map(shingles, task["texts"]), num_perm=task["hashes"])
  signed = time.perf_counter()
  index = datasketch.MinHashLSH(num_perm=task["hashes"], params=(task["bands"], task["rows"]))
  pairs = []
  for number, minhash in enumerate(minhashes):
    candidates = index.query(minhash)
    pairs += [(number, other) for other in candidates if minhash.jaccard(minhashes[other]) >= task["similarity"]]
    index.insert(number, minhash, check_duplication=False)
  result = {"sign": signed - started, "all": time.perf_counter() - started, "pairs": pairs}
  Path(sys.argv[2]).write_text(json.dumps(result))


if __name__ == "__main__":
  main()
