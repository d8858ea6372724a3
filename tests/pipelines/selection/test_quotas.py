"""Quotas of domains, through the commands and as Beam passes, against dictionaries and sorting.

Twelve shards in all formats, dozens of blocks, bad records in the middle; a third of the documents have no url.
"""

import collections
import json
import pathlib
import shutil

import apache_beam as beam
import corpora
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam.testing import util
from running import content, logs, run_in

from curation.selection import domains, selection
from curation.selection import quotas as arithmetic
from pipelines.corpus import blocks
from pipelines.files import damage, fingerprints
from pipelines.output import manifests
from pipelines.output.formats.registry import FORMATS
from pipelines.selection import quotas
from pipelines.sorted_runs import run_writer
from pipelines.store import block_files, score_files, score_store
from pipelines.store.score_store import ScoreStore

BIG_ROWS, SMALL_ROWS = 4_000, 300
REQUESTS = {
  "most": ["--sampler=ask_llm", "--group_by=domain", "--group_max=7", "--rejected=rest"],
  "share": ["--sampler=ask_llm", "--group_by=domain", "--group_rate=0.2", "--seed=3"],
  "best": ["--sampler=ask_llm", "--group_by=domain", "--group_max=40", "--rate=0.1", "--num_shards=3"],
  "tokens": ["--sampler=ask_llm", "--group_by=domain", "--group_max=40", "--num_tokens=3000"],
  "lowest": ["--sampler=ask_llm", "--method=bottom_k", "--group_by=domain", "--group_max=5", "--num_examples=100"],
  "above": ["--sampler=ask_llm", "--threshold=-5.2", "--group_by=domain", "--group_max=9"],
  "any": ["--sampler=random", "--group_by=domain", "--group_max=3"],
}


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> pathlib.Path:
  folder = tmp_path_factory.mktemp("quotas")
  (folder / "prompt.txt").write_text(corpora.PROMPT)
  corpora.write_model(folder / "model")
  corpora.write_corpus(folder / "corpus", big_rows=BIG_ROWS, small_rows=SMALL_ROWS)
  reading = [f"--input={folder}/corpus/*", f"--model={folder}/model", f"--prompt_file={folder}/prompt.txt"]
  score = ["score", *reading, "--max_input_tokens=32", "--scores=scores", "--name=tiny", "--block_rows=100"]
  assert run_in(folder, [*score, "--direct_num_workers=1"]) == 0
  return folder


def sample(folder: pathlib.Path, name: str, workers: int = 1, *flags: str) -> int:
  command = ["sample", "--scores=scores", *REQUESTS[name], f"--output={name}", f"--direct_num_workers={workers}"]
  return run_in(folder, [*command, *flags])


@pytest.fixture(scope="module")
def drawn(place) -> pathlib.Path:
  for name in REQUESTS:
    assert sample(place, name) == 0
  return place


def request_of(folder: pathlib.Path) -> selection.SelectionRequest:
  return selection.SelectionRequest(**json.loads((folder / "manifest.json").read_text())["request"])


def ranked(place: pathlib.Path, request: selection.SelectionRequest) -> list[tuple[int, str, str, int, float]]:
  """Returns (rank, source, domain, tokens, score) of every scored document, the best first."""
  found = []
  for path in (place / "scores/tiny/shards").iterdir():
    table = pq.read_table(path).to_pydict()
    shard, rows = table["shard"][0], np.array(table["row"])
    keys = selection.document_keys(request, shard, rows, np.array(table["score"], np.float32))
    ties = selection.tie_hashes(request.seed, shard, rows)
    numbers = [int(key) << 64 | int(tie) for key, tie in zip(keys, ties, strict=True)]
    sources = [f"{shard}#{row}" for row in table["row"]]
    found += zip(numbers, sources, table["domain"], table["num_tokens"], table["score"], strict=True)
  return sorted(found, reverse=True)


def expected(place: pathlib.Path, request: selection.SelectionRequest) -> list[str]:
  everything = ranked(place, request)
  sizes = collections.Counter(domain for _, _, domain, _, _ in everything)
  names = sorted(sizes)
  limits = arithmetic.limits(request, domains.hash_domains(pa.array(names)), np.array([sizes[name] for name in names]))
  left = dict(zip(names, limits.tolist(), strict=True))
  chosen, tokens = [], 0
  for _, source, domain, num_tokens, score in everything:
    left[domain] -= 1
    if left[domain] < 0:
      continue
    tokens += num_tokens
    if request.num_tokens is not None and tokens > request.num_tokens:
      break
    if request.threshold is not None and score < request.threshold:
      break
    chosen.append(source)
  if request.rate is not None:
    return chosen[: int(float(request.rate) * len(everything) + 0.5)]
  return chosen[: request.num_examples]


def sources(folder: pathlib.Path) -> list[str]:
  paths = sorted(folder.glob("*.tfrecord-*"))
  tables = [table for path in paths for table in FORMATS["tfrecord"].read(str(path))]
  return [source for table in tables for source in table["source"].to_pylist()]


def test_a_store_knows_each_documents_domain(place):
  """Kills the mutants: domains of good rows that are paired with all rows; a host in place of its domain."""
  for path in (place / "scores/tiny/shards").iterdir():
    table = pq.read_table(path).to_pydict()
    for shard, row, domain in zip(table["shard"], table["row"], table["domain"], strict=True):
      has_url = ".json" in shard
      assert domain == (corpora.url_of(shard, row).split(".", 1)[1].split("/")[0] if has_url else "")


@pytest.mark.parametrize("name", REQUESTS)
def test_each_domain_gives_its_best_documents_up_to_its_quota(drawn, name):
  """Kills the mutants: a quota for each shard; the first rows of a domain in place of its best; a threshold, or a token
  budget, that counts documents that quotas exclude."""
  found = sources(drawn / name)
  assert len(found) == len(set(found)) > 30
  assert set(found) == set(expected(drawn, request_of(drawn / name)))
  if name == "most":
    others = {source for _, source, *_ in ranked(drawn, request_of(drawn / name))} - set(found)
    assert set(sources(drawn / "rest")) == others
  assert not (drawn / name / ".winnow/runs").exists()


@pytest.mark.long
@pytest.mark.parametrize("name", ["share", "best"])
def test_two_processes_draw_the_same_bytes(drawn, name, tmp_path):
  shutil.copytree(drawn / "scores", tmp_path / "scores")
  assert sample(tmp_path, name, 2) == 0
  assert content(tmp_path / name) == content(drawn / name)
  assert len(logs(tmp_path / name)[-1]["documents_by_process"]["collecting the sample"]) == 2


def test_a_run_that_was_interrupted_and_damaged_goes_on(drawn, tmp_path, monkeypatch, capsys):
  """Kills the mutants: files of quotas that count as intact if they exist; quotas that are settled again."""
  shutil.copytree(drawn / "scores", tmp_path / "scores")

  def interrupted(*_, **__):
    raise KeyboardInterrupt

  with monkeypatch.context() as patch:
    patch.setattr(manifests, "publish", interrupted)
    assert sample(tmp_path, "best") != 0
  (folder,) = (tmp_path / "best").rglob("quotas")
  files = sorted(path for path in folder.rglob("*") if path.is_file())
  assert [path.suffix for path in files].count(".run") == 13 and len(files) == 25  # 12 shards, one part, 12 shards
  spoilt = [files[0], files[7], files[-3], next(folder.glob("within/*.run"))]
  before = {path: path.stat().st_mtime_ns for path in files if path not in spoilt}
  for how, path in enumerate(spoilt):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes((bytes(data), data[: len(data) // 2], b"")[how % 3])
  with monkeypatch.context() as patch:
    patch.setattr(manifests, "publish", interrupted)
    assert sample(tmp_path, "best") != 0
  assert len(damage.records(str(tmp_path / "best"))) == len(spoilt)
  assert {path: path.stat().st_mtime_ns for path in before} == before
  capsys.readouterr()
  assert sample(tmp_path, "best") == 0
  assert content(tmp_path / "best") == content(drawn / "best")


def test_what_quotas_leave_must_be_enough(drawn, capsys):
  """Kills the mutant that accepts fewer documents."""
  command = ["sample", "--scores=scores", "--sampler=random", "--output=few", "--direct_num_workers=1"]
  groups = ["--group_by=domain", "--group_max=1"]
  assert run_in(drawn, [*command, *groups, "--num_examples=2000"]) == 1
  message = capsys.readouterr().err
  assert "--num_examples=2000 of 7" in message and "is 2,000, and --group_max=1 leaves 33; ask for fewer" in message
  assert not (drawn / "few/manifest.json").exists()
  assert run_in(drawn, [*command, "--group_max=1", "--rate=0.1"]) == 2
  assert "add --group_by=domain" in capsys.readouterr().err
  # The flags are part of the request.
  assert run_in(drawn, [*command, *groups]) == 2
  assert "selection.num_examples" in capsys.readouterr().err
  assert run_in(drawn, [*command, *groups, "--overwrite"]) == 0
  assert "33 of " in capsys.readouterr().out


VERIFIED = [
  "best",
  "rest",
  *(pytest.param(name, marks=pytest.mark.long) for name in REQUESTS if name != "best"),
]


@pytest.mark.parametrize("name", VERIFIED)
def test_verify_settles_quotas_anew(drawn, name, capsys):
  before = content(drawn / name)
  assert run_in(drawn, ["verify", name, "--direct_num_workers=1"]) == 0
  assert "are those that the scores select, each once" in capsys.readouterr().out
  assert content(drawn / name) == before


@pytest.mark.parametrize("change", [{"group_max": 41}, {"group_max": 39}, {"group_max": None, "group_by": None}])
def test_verify_names_a_quota_that_was_not_kept(drawn, tmp_path, change, capsys):
  """Kills the mutant that trusts the quotas of a manifest."""
  for name in ("best", "scores"):
    shutil.copytree(drawn / name, tmp_path / name)
  path = tmp_path / "best/manifest.json"
  manifest = json.loads(path.read_text())
  manifest["request"] |= change
  path.write_bytes(fingerprints.to_json(manifest))
  assert run_in(tmp_path, ["verify", "best", "--direct_num_workers=1"]) == 1
  assert "winnow: " in capsys.readouterr().err
  assert not list((tmp_path / "best/.winnow").glob("verify-*"))


def test_explain_tells_what_a_quota_left_out(drawn, capsys):
  request = request_of(drawn / "most")
  chosen = set(sources(drawn / "most"))
  everything = ranked(drawn, request)
  place, (_, source, domain, *_) = next((i, entry) for i, entry in enumerate(everything) if entry[1] not in chosen)
  size = sum(entry[2] == domain for entry in everything)
  assert run_in(drawn, ["explain", source, "--scores=scores", "--output=most"]) == 0
  said = capsys.readouterr().out
  assert f"most: not selected: number {place + 1:,} of {len(everything):,} in the order of --sampler=ask_llm" in said
  assert f"; number 8 of {size:,} of {domain or 'no domain'}, of which 7 can be selected" in said
  best = everything[0][1]
  assert run_in(drawn, ["explain", best, "--scores=scores", "--output=most"]) == 0
  assert "most: selected: number 1 of" in capsys.readouterr().out


ROWS = {"a": 3_000, "b": 0, "c": 5_001, "d": 1}


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> ScoreStore:
  """A store with few distinct scores, and domains of all sizes: from half of all documents to a single one."""
  generator = np.random.default_rng(0)
  request = {"format": score_store.FORMAT, "inputs": [blocks.Shard(name, "", "", "", 0).identity() for name in ROWS]}
  store = ScoreStore.for_request(str(tmp_path_factory.mktemp("store")), request)
  fingerprints.claim(store.request_path, request, owner="the store")
  for name, rows in ROWS.items():
    shard = blocks.Shard(name, "", "jsonl", "", 0)
    for index, start in enumerate(range(0, rows, 500)):
      size = min(500, rows - start)
      numbers = np.where(generator.random(size) < 0.5, 0, generator.geometric(0.003, size))
      table = pa.table(
        {
          "row": np.arange(start, start + size),
          "score": np.round(generator.standard_normal(size), 1).astype(np.float32),
          "num_tokens": np.ones(size, np.int32),
          "domain": pa.array([f"{number}.org" for number in numbers]),
          "reason": pa.nulls(size, pa.string()),
          "text": pa.nulls(size, pa.string()),
        },
      ).cast(block_files.BLOCK_SCHEMA)
      block_files.write_block(store, shard, index, block_files.BlockFile(table, size, 0), engine=store.engine())
    block_files.compact_shard(store, shard, num_blocks=-(-rows // 500), num_rows=rows)
  return store


@pytest.mark.parametrize("of_part", [100, 3_000, 1 << 20])
def test_many_parts_settle_what_one_does(store, tmp_path, monkeypatch, of_part):
  """Uses parts far smaller than a domain, and merges of several levels. Kills the mutants: a part that sees only some
  shards; equal keys in the order of shards; a domain in two parts."""
  monkeypatch.setattr(run_writer, "FAN_IN", 2)
  shards = tuple(blocks.Shard(name, "", "jsonl", "", 0) for name in ROWS)
  request = selection.SelectionRequest("ask_llm", group_by="domain", group_rate="0.3")
  limits = quotas.Quotas(store, request, str(tmp_path), str(tmp_path / "runs"), "f", part_documents=of_part)
  everything = []
  for shard in shards:
    with score_files.ScoreFile(store, shard) as scores:
      for batch in scores.batches(1 << 20, domains=True):
        keys = selection.order_key(batch["score"].to_numpy())
        ties = selection.tie_hashes(0, shard.name, batch["row"].to_numpy())
        entries = zip(keys.tolist(), ties.tolist(), batch["domain"].to_pylist(), batch["row"].to_pylist(), strict=True)
        everything += [(key, tie, domain, shard.name, row) for key, tie, domain, row in entries]
  everything.sort(reverse=True)
  sizes = collections.Counter(entry[2] for entry in everything)
  names = sorted(sizes)
  hashes = domains.hash_domains(pa.array(names))
  left = dict(zip(names, arithmetic.limits(request, hashes, np.array([sizes[n] for n in names])).tolist(), strict=True))
  expected = set()
  for _, _, domain, shard, row in everything:
    left[domain] -= 1
    if left[domain] >= 0:
      expected.add((shard, row))
  with beam.Pipeline("FnApiRunner") as pipeline:
    ledger = pipeline | beam.Create([score_store.Ledger(len(everything), None, 0)])
    util.assert_that(
      ledger | quotas.Settle(limits, shards),
      util.equal_to([score_store.Ledger(len(everything), None, 0, len(expected))]),
    )
  found = set()
  for shard in shards:
    rows = np.arange(ROWS[shard.name])
    found |= {(shard.name, row) for row in rows[limits.within(shard)(rows)].tolist()} if len(rows) else set()
  assert found == expected
  assert len(list(tmp_path.rglob("within/*.run"))) == -(-len(everything) // of_part)
