"""A small corpus with hostile texts, scored by two raters and by density, and outputs of all kinds, for reports."""

import csv
import json
import pathlib
from collections.abc import Iterable, Sequence

import corpora
import numpy as np
import pyarrow.parquet as pq
from running import run_in

from pipelines.output.formats.registry import FORMATS

ROWS = (260, 150, 40)
HOSTILE = (
  "<script>document.title = 'run'</script><img src=x onerror=\"document.title='run'\">&lt;b&gt; "
  "\x01\x00\r \u202e {{ 7 * 7 }} $x^2$"
)
OUTPUTS = {
  "best": ["--sampler=ask_llm", "--name=large", "--rate=0.2", f"--tfds_data_dir={'unbroken' * 8}"],
  "rest": [],  # what `best` rejects
  "sparse": ["--sampler=density", "--num_examples=60", "--output_format=jsonl"],
  "few": ["--sampler=ask_llm", "--name=small", "--group_by=domain", "--group_max=2", "--output_format=parquet"],
  "random": ["--sampler=random", "--rate=0.3"],
}
SCORERS = ["small", "large", "density"]


def url_of(shard: int, row: int) -> str:
  return f"https://{row}.site{(shard * 31 + row * 7919) % 23}.co.uk/" if row % 5 else f"https://<b>{row}</b>.org"


def write_corpus(folder: pathlib.Path) -> None:
  """Three files, with a bad row and hostile texts in each."""
  folder.mkdir()
  generator = np.random.default_rng(0)
  for shard, rows in enumerate(ROWS):
    texts = [text if row % 3 else f"{HOSTILE} {text}" for row, text in enumerate(corpora.sentences(rows, shard))]
    lines = [json.dumps({"text": text, "url": url_of(shard, row)}) for row, text in enumerate(texts)]
    lines[rows // 2] = f'{{"text": "{"<script>" * 9}'
    lines[rows // 2 - 1] = lines[rows // 2 - 2]  # a copy
    (folder / f"part-{shard}.jsonl").write_text("\n".join(lines) + "\n")
    np.save(folder / f"part-{shard}.npy", generator.standard_normal((rows, 4)).astype(np.float32))


def build(folder: pathlib.Path, outputs: Sequence[str]) -> None:
  """Scores the corpus by two raters and by density, and draws outputs."""
  (folder / "prompt.txt").write_text(corpora.PROMPT)
  write_corpus(folder / "corpus")
  reading = [f"--input={folder}/corpus/*.jsonl", "--scores=scores", "--max_bad_fraction=0.1", "--direct_num_workers=1"]
  asking = [f"--prompt_file={folder}/prompt.txt", "--max_input_tokens=32", "--batch_tokens=512"]
  # The names sort the other way than the sizes.
  for name, width in (("large", 32), ("small", 16)):
    corpora.write_model(folder / name, d_model=width)
    score = ["score", *reading, *asking, f"--model={folder}/{name}", f"--name={name}", "--block_rows=50"]
    assert run_in(folder, score) == 0
  embedded = [f"--embeddings={folder}/corpus/*.npy", "--sketch_rows=50", "--sketch_counters=500", "--block_rows=64"]
  assert run_in(folder, ["score", "--scorer=density", "--name=density", *reading, *embedded]) == 0
  for name in outputs:
    flags = OUTPUTS[name]
    where = ["--scores=scores"] if name != "random" else reading[:1] + reading[2:3]
    rejected = ["--rejected=rest"] if name == "best" else []
    if flags:
      command = ["sample", *where, *flags, *rejected, f"--output={name}", "--direct_num_workers=1"]
      assert run_in(folder, command) == 0


def make(folder: pathlib.Path, outputs: Iterable[str] = OUTPUTS, *flags: str) -> int:
  where = [f"--output={','.join(outputs)}", "--report=page", "--direct_num_workers=1"]
  return run_in(folder, ["report", "--scores=scores", *where, *flags])


def read(place: pathlib.Path, name: str) -> list[dict[str, str]]:
  with (place / f"page/{name}.csv").open(newline="") as file:
    return list(csv.DictReader(file))


def scores_of(place: pathlib.Path, store: str) -> dict[str, dict]:
  """Returns the rows of a store by their sources."""
  tables = [pq.read_table(path).to_pylist() for path in sorted((place / f"scores/{store}/shards").glob("*.parquet"))]
  return {f"{row['shard']}#{row['row']}": row for table in tables for row in table}


def documents_of(place: pathlib.Path, output: str) -> set[str]:
  """Returns the sources of the documents of an output, read from its files."""
  manifest = json.loads((place / output / "manifest.json").read_text())
  tables = [FORMATS[manifest["output_format"]].read(str(place / output / of["file"])) for of in manifest["shards"]]
  return {source for of_file in tables for table in of_file for source in table["source"].to_pylist()}
