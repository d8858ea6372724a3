"""`winnow explain`: shows a document's scores, how they rank among all, and why it was selected or not."""

import concurrent.futures
import dataclasses
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from curation.errors import WinnowError
from curation.selection import domains, hashing, quotas, selection
from pipelines.corpus import blocks, inputs
from pipelines.files import storage
from pipelines.flags import parsing
from pipelines.jobs import find_stores, planning
from pipelines.jobs.cascades import plan
from pipelines.output import cascades, manifests
from pipelines.registry import command_names
from pipelines.runners import commands
from pipelines.selection import ranks
from pipelines.store import documents, kinds, score_files
from pipelines.store.score_store import ScoreStore

_READERS = 8  # files read at once
_BAD = "a bad document"


class Found(NamedTuple):
  """The record of a document in a store: a score and a domain, or the reason why it has none."""

  score: float | None
  detail: str
  domain: str = ""


def explain(argv: Sequence[str]) -> None:
  namespace, beam_arguments = parsing.parse(command_names.EXPLAIN, argv)
  planning.make_launcher(namespace, beam_arguments)  # sets what Beam's file systems need: credentials, endpoints
  shard_name, mark, row = namespace.document.rpartition("#")
  if not mark or not (row.isascii() and row.isdigit()):
    raise WinnowError(f"{namespace.document} names no document; write SHARD#ROW, such as c4-train.00000.json.gz#17")
  listing = find_stores.stores_in(namespace.scores)
  stores = {name: dataclasses.replace(store, removes_damaged=False) for name, store in listing.stores.items()}
  if not stores:
    why = "; ".join(listing.unreadable.values())
    raise WinnowError(f"--scores={namespace.scores} has no store that can be read: {why}")
  known = {store_name: (store, _shard(store, shard_name)) for store_name, store in sorted(stores.items())}
  if not any(shard for _, shard in known.values()):
    names = {shard.name for store in stores.values() for shard in store.shards()}
    hint = documents.similar(shard_name, names)
    raise WinnowError(f"no store in --scores={namespace.scores} has a shard called {shard_name}{hint}")
  for store_name, (store, shard) in known.items():
    print(f"{store_name}: {_in_store(store, shard, int(row))}")
  if namespace.output is not None:
    output = inputs.absolute(namespace.output)
    with manifests.naming_manifest(output):
      print(f"{namespace.output}: {_in_output(output, namespace.scores, shard_name, int(row))}")


def look_up(store: ScoreStore, shard: blocks.Shard, row: int) -> Found:
  """Looks up a document in a compacted shard."""
  with score_files.ScoreFile(store, shard) as scores:
    summary = scores.summary
    if row >= summary.num_rows:
      raise WinnowError(f"{shard.name} has {summary.num_rows:,} rows, numbered from 0, and so no row {row:,}")
    block = int(np.searchsorted(np.cumsum(scores.summary.block_rows), row, side="right"))
    table = scores.block(block, domains=True)
    place = int(np.searchsorted(table["row"].to_numpy(), row))
    if place < len(table) and table["row"][place].as_py() == row:
      tokens = table["num_tokens"][place].as_py()
      counted = "" if tokens is None else f", {tokens:,} tokens"
      if store.scorer == kinds.CLUSTER:
        counted += f", in cluster {table['cluster'][place]}, cosine {table['cosine'][place].as_py():.4f}"
      score = 0.0 if store.keeps_blocks else table["score"][place].as_py()
      return Found(score, counted, table["domain"][place].as_py())
  letter = storage.read_bytes(store.dead_letter_path(shard)) if summary.bad else b""
  for line in letter.splitlines():
    entry = orjson.loads(line)
    if entry["row"] == row:
      return Found(None, f"{_BAD} ({entry['reason']}), which begins with {entry['text'][:80]!r}")
  known = {"left out by a stage before": summary.left_out, "a blank line": summary.blank}
  if reason := ", or ".join(reason for reason, count in known.items() if count):
    return Found(None, reason)
  raise WinnowError(f"{store.dead_letter_path(shard)} lacks row {row}, which has no score; run winnow score again")


def _shard(store: ScoreStore, name: str) -> blocks.Shard | None:
  return next((shard for shard in store.shards() if shard.name == name), None)


def _in_store(store: ScoreStore, shard: blocks.Shard | None, row: int) -> str:
  if shard is None:
    return "its corpus does not have this shard"
  if not store.finished([shard]):
    return "its shard is not finished"
  score, detail, _ = look_up(store, shard, row)
  if score is None:
    return detail
  if store.keeps_blocks:
    return f"{store.kind.verb}{detail}"
  if store.scorer == kinds.COUNT:
    return "counted, without a score"
  finished = store.finished(store.shards())
  with concurrent.futures.ThreadPoolExecutor(_READERS) as pool:
    below, equal, total = map(sum, zip(*pool.map(lambda other: _compare(store, other, score), finished), strict=True))
  whole = "" if len(finished) == len(store.shards()) else " so far"
  alike = f", equal to {equal - 1:,} others" if equal > 1 else ""
  return f"{store.scorer} {score:.6g}{detail}; above {below / total:.2%} of {total:,} documents{whole}{alike}"


def _compare(store: ScoreStore, shard: blocks.Shard, score: float) -> tuple[int, int, int]:
  """Counts the documents of a shard that have a lower score, the same score, and any score."""
  below = equal = total = 0
  with score_files.ScoreFile(store, shard) as scores:
    for batch in scores.batches(ranks.BATCH_ROWS):
      scores_N = batch["score"].to_numpy()
      below, equal = below + int((scores_N < score).sum()), equal + int((scores_N == score).sum())
      total += len(scores_N)
  return below, equal, total


def _in_output(output: str, scores: str, name: str, row: int) -> str:
  manifest = manifests.read(output)
  try:
    store = find_stores.store_of(output, manifest, None)
  except WinnowError:
    store = find_stores.store_of(output, manifest, scores)
  shard = _shard(store, name)
  if shard is None:
    raise WinnowError(f"{name} is none of the inputs of {output}")
  score, detail, domain = look_up(store, shard, row)
  if score is None:
    if cascades.FIELD in manifest and not detail.startswith(_BAD):
      detail = _below_cascade(output, manifest, store, scores, (shard, row)) or detail
    return f"not selected: {detail}"
  request = selection.SelectionRequest(**manifest["request"])
  row_N = np.array([row])
  key = int(selection.document_keys(request, name, row_N, np.array([score], np.float32))[0])
  tie = int(selection.tie_hashes(request.seed, name, row_N)[0])
  rank, floor = key << 64 | tie, int(manifest["threshold"]["rank"], 16)
  before, _ = _count_above(store, request, rank)
  place = f"number {before + 1:,} of {manifest['counts']['scored']:,} in the order of {_order(request)}"
  is_within, limit = True, ""
  if request.group_by is not None:
    is_within, limit = _in_group(store, request, rank, domain)
  elif request.percentile_range is not None:
    above = request.num_above(manifest["counts"]["scored"])
    is_within, limit = before >= above, f"; the first {above:,} are above --percentile_range={request.percentile_range}"
  is_selected, counts = rank >= floor and is_within, manifest["counts"]
  num_selected = counts["scored"] - counts["selected"] if manifest["rejected"] else counts["selected"]
  verdict = f"{'' if is_selected else 'not '}selected: {place}"
  first = f"; {'' if limit else 'the first '}{num_selected:,} are selected"
  if is_selected == manifest["rejected"]:
    return f"{verdict}{first}{limit}, so this output does not have it"
  num_shards = len(manifest["shards"])
  index = int(hashing.hash_documents("place", request.seed, name, row_N)[0]) % num_shards
  return f"{verdict}{'' if is_selected else first}{limit}; in {manifest['shards'][index]['file']}"


def _below_cascade(
  output: str, manifest: dict[str, Any], store: ScoreStore, scores: str, document: tuple[blocks.Shard, int]
) -> str | None:
  """Says why a cascade did not ask the rater about a document; None if the proxy has no score of it."""
  shard, row = document
  asked = plan.asked_of(output, manifest, store, scores)
  score, _, _ = look_up(asked.store, shard, row)
  if score is None:
    return None
  floor = selection.from_order_key(int(manifest[cascades.FIELD]["asked_from"], 16) >> 64)
  return (
    f"left out by the cascade, so that the rater was not asked about it: its proxy score, {score:.6g}, is below the "
    f"threshold, {floor:.6g}"
  )


def _in_group(store: ScoreStore, request: selection.SelectionRequest, rank: int, domain: str) -> tuple[bool, str]:
  """Tells whether a document is within its group's quota, and returns that as text too."""
  before, size = _count_above(store, request, rank, domain)
  group = domains.hash_domains(pa.array([domain]))
  limit = int(quotas.limits(request, group, np.array([size]))[0])
  shown = domain if domain.isprintable() else repr(domain)  # a domain may hold what a terminal would take for a command
  position = f"number {before + 1:,} of {size:,} of {shown or 'no domain'}, of which {limit:,} can be selected"
  return before < limit, f"; {position}"


def _order(request: selection.SelectionRequest) -> str:
  method: dict[str, Any] = {"method": request.method} if request.sampler != "random" else {}
  flags = {"sampler": request.sampler, **method, "seed": request.seed}
  return " ".join(f"--{name}={value}" for name, value in flags.items())


def _count_above(
  store: ScoreStore, request: selection.SelectionRequest, rank: int, domain: str | None = None
) -> tuple[int, int]:
  """Counts the documents that have a larger rank, and all documents, in one domain or in all."""

  def count(shard: blocks.Shard) -> tuple[int, int]:
    above = total = 0
    with score_files.ScoreFile(store, shard) as scores:
      for batch in scores.batches(ranks.BATCH_ROWS, domains=domain is not None):
        alike = batch if domain is None else batch.filter(pc.equal(batch["domain"], domain))
        ranked = ranks.rank_rows(request, shard.name, alike)
        above += int(selection.is_selected(rank + 1, ranked.keys, ranked.ties).sum())
        total += len(ranked.rows)
    return above, total

  with concurrent.futures.ThreadPoolExecutor(_READERS) as pool:
    above, total = map(sum, zip(*pool.map(count, store.shards()), strict=True))
  return above, total


def main(argv: Sequence[str] | None = None) -> int:
  return commands.run_command(explain, argv)


if __name__ == "__main__":
  sys.exit(main())
