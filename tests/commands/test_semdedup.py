"""SemDeDup through the commands: scores as brute force finds them, however the pairs are shared out and resumed.

Twelve shards in all formats, dozens of blocks, bad records in the middle, with embeddings made elsewhere: half of them
around one centre, so that its cluster is divided over several shares of tile pairs, and copies and near-copies in all.
"""

import json
import pathlib
import shutil

import corpora
import dividing
import numpy as np
import pytest
from running import content, embedded, logs, run_in, shards_of

from curation.coverage import cluster_tiles, semdedup
from curation.selection import hashing
from pipelines.flags import parsing
from pipelines.registry import command_names
from pipelines.scorers.semdedup import comparing, layout
from pipelines.scorers.semdedup.preparation import ComparisonPreparation
from pipelines.scoring import scoring

BIG_ROWS, SMALL_ROWS, DIMENSIONS, CLUSTERS = 6_000, 500, 12, 21
KMEANS = [f"--num_clusters={CLUSTERS}", "--kmeans_sample=100", "--kmeans_iterations=6"]
ONE, TWO = "--direct_num_workers=1", "--direct_num_workers=2"


def make_embeddings(shard: str, rows: int) -> np.ndarray:
  """float32 [rows, D], not of length 1; a fifth are copies of others of the shard, or nearly."""
  generator = np.random.default_rng(list(shard.encode()))
  centres = np.random.default_rng(1).standard_normal((20, DIMENSIONS))
  of_N = np.where(generator.random(rows) < 0.5, 0, generator.integers(1, 20, rows))
  spread_N1 = np.where(of_N == 0, 0.02, 0.3)[:, None]  # k-means leaves what is so dense in one cluster
  points_ND = centres[of_N] + spread_N1 * generator.standard_normal((rows, DIMENSIONS))
  copies = generator.choice(rows, rows // 5, replace=False)
  noise = generator.choice([0, 0.01], (len(copies), 1)) * generator.standard_normal((len(copies), DIMENSIONS))
  points_ND[copies] = points_ND[generator.integers(0, rows, len(copies))] + noise
  return (points_ND * generator.uniform(0.5, 20, (rows, 1))).astype(np.float32)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> pathlib.Path:
  folder = tmp_path_factory.mktemp("semdedup")
  corpora.write_with_embeddings(folder, make_embeddings, big_rows=BIG_ROWS, small_rows=SMALL_ROWS, bad_row=300)
  return folder


def reading(place: pathlib.Path) -> list[str]:
  return [f"--input={place}/corpus/*", f"--embeddings={place}/made/*", "--scores=scores", "--block_rows=100"]


def score_command(place: pathlib.Path, *more: str) -> list[str]:
  return ["score", "--scorer=semdedup", *reading(place), *KMEANS, *more]


SAMPLE = ["sample", "--scores=scores", "--sampler=semdedup", "--rate=0.5", "--output=out", "--num_shards=3"]


@pytest.fixture(scope="module")
def undisturbed(place) -> pathlib.Path:
  """Embeddings, clusters, scores and a sample, in one process."""
  folder = place / "undisturbed"
  for command in (score_command(place), SAMPLE):
    assert run_in(folder, [*command, ONE]) == 0
  return folder


@pytest.fixture
def clustered(tmp_path, undisturbed) -> pathlib.Path:
  """The same folder before anything was compared."""
  for name in ("embeddings_made", "clusters_made"):
    shutil.copytree(undisturbed / "scores" / name, tmp_path / "scores" / name)
  return tmp_path


def store_of(folder: pathlib.Path) -> pathlib.Path:
  return folder / "scores/semdedup_made"


def brute_force(folder: pathlib.Path, keep: str) -> np.ndarray:
  """The scores of all documents in the order of the store of clusters, by all cosines of each cluster: float64 [N]."""
  table, points = shards_of(folder / "scores/clusters_made"), embedded(folder)
  documents = list(zip(table["shard"].to_pylist(), table["row"].to_pylist(), strict=True))
  assert len(documents) == len(points)
  points_ND = np.array([points[document] for document in documents]).astype(np.float64)
  points_ND /= np.linalg.norm(points_ND, axis=1, keepdims=True)
  clusters_N, cosines_N = table["cluster"].to_numpy(), table["cosine"].to_numpy()
  hashes_N = np.array([int(hashing.hash_documents("semdedup", 0, shard, [row])[0]) for shard, row in documents], object)
  sign = {"nearest": -1, "farthest": 1, "random": 0}[keep]
  scores_N = np.full(len(documents), np.nan)
  for cluster in range(CLUSTERS):
    order = np.flatnonzero(clusters_N == cluster)
    order = np.array(sorted(order, key=lambda i: (sign * float(cosines_N[i]), hashes_N[i])), int)
    for start in range(0, len(order), 1000):
      rows = order[start : start + 1000]
      before = order[: start + len(rows)]
      cosines_RB = points_ND[rows] @ points_ND[before].T
      cosines_RB[np.arange(len(before)) >= start + np.arange(len(rows))[:, None]] = -1
      scores_N[rows] = -np.clip(cosines_RB.max(axis=1), -1, 1)
  return scores_N


def test_scores_are_those_of_brute_force_and_the_books_balance(place, undisturbed):
  """Kills the mutants: a share that is left out; scores of one shard or row with another's; bad rows that shift those
  behind them; embeddings of one block with the clusters of another."""
  clusters, scores = shards_of(undisturbed / "scores/clusters_made"), shards_of(store_of(undisturbed))
  for name in ("shard", "row", "domain", "num_tokens"):
    assert clusters[name].combine_chunks() == scores[name].combine_chunks(), name
  summary = json.loads((store_of(undisturbed) / "summary.json").read_text())
  assert summary["read"] == summary["scored"] + summary["bad"] == BIG_ROWS + 11 * SMALL_ROWS + 3 - summary["blank"]
  assert (summary["reasons"]["embedding_is_zero"], summary["reasons"]["embedding_is_not_finite"]) == (1, 1)
  assert np.bincount(clusters["cluster"].to_numpy()).max() > 0.4 * len(clusters)
  found_N = scores["score"].to_numpy()
  np.testing.assert_allclose(found_N, brute_force(undisturbed, "nearest"), atol=2e-6)
  assert (found_N == 1).sum() == CLUSTERS and (found_N < -0.99999).sum() > 400
  assert not (store_of(undisturbed) / "compared").exists()


@pytest.mark.parametrize("keep", ["farthest", "random"])
def test_other_documents_are_kept_where_that_is_asked_for(clustered, place, keep):
  """Kills: a flag that is not heeded; ranks in place of hashes."""
  assert run_in(clustered, [*score_command(place, f"--keep={keep}", "--name=other"), ONE]) == 0
  scores_N = shards_of(clustered / "scores/other")["score"].to_numpy()
  np.testing.assert_allclose(scores_N, brute_force(clustered, keep), atol=2e-6)


def test_the_sample_is_what_repeats_least(undisturbed):
  import tensorflow_datasets as tfds

  scores_N = shards_of(store_of(undisturbed))["score"].to_numpy()
  kept_N = np.sort(scores_N)[::-1][: int(0.5 * len(scores_N) + 0.5)]
  drawn = tfds.builder_from_directory(str(undisturbed / "out")).as_dataset(split="train")
  found_N = np.sort([example["score"] for example in tfds.as_numpy(drawn)])[::-1]
  np.testing.assert_array_equal(found_N, kept_N)


@pytest.mark.local_runner
def test_one_command_in_two_processes_gives_the_same(place, undisturbed):
  """Embeds, clusters, compares and scores. Kills: anything that depends on which worker did it."""
  folder = place / "two"
  assert run_in(folder, [*score_command(place), TWO]) == 0
  assert content(folder / "scores") == content(undisturbed / "scores")
  (log,) = logs(store_of(folder))
  for stage in (comparing.MOVING, comparing.COMPARING):
    assert sum(log["documents_by_process"][stage].values()) == log["counters"]["documents_scored"]
  assert len(log["documents_by_process"]["scoring (semdedup)"]) == 2


@pytest.fixture
def small_units():
  """Dozens of groups, parts, shares and spans; more runs than are merged at once."""
  with dividing.divided(ComparisonPreparation, group=300, part_documents=1_000, share_pairs=2, span_tiles=2):
    yield


def test_any_division_of_the_work_gives_the_same_bytes(place, clustered, undisturbed, small_units, monkeypatch):
  """Kills the mutants: a pair that is done twice or by nobody; a tile whose places are another's; partial results that
  overwrite one another; work that depends on the order of groups."""
  told, compare = clustered / "told", comparing.compare_share
  told.mkdir()

  def counted(config, share):
    work = layout.Work.for_config(config)
    giant = int(work.tiles.sizes_K.argmax())
    is_giant = work.tiles.pair_starts[giant] <= share.start < work.tiles.pair_starts[giant + 1]
    (told / f"{share.start}-{len(work.groups())}-{is_giant}").touch()
    return compare(config, share)

  monkeypatch.setattr(comparing, "compare_share", counted)
  assert run_in(clustered, [*score_command(place), ONE]) == 0
  assert content(store_of(clustered)) == content(store_of(undisturbed))
  shares = [path.name.split("-") for path in told.iterdir()]
  assert {int(groups) > 32 for _, groups, _ in shares} == {True}
  giant = sum(is_giant == "True" for _, _, is_giant in shares)
  assert giant >= 8 and len(shares) >= giant + 5


def test_other_blocks_give_the_same_scores(place, undisturbed):
  """Invariant 1. Kills: ranks or cosines that depend on how documents were grouped."""
  folder = place / "other_blocks"
  assert run_in(folder, [*score_command(place, "--block_rows=1001"), ONE]) == 0
  assert shards_of(store_of(folder)) == shards_of(store_of(undisturbed))


@pytest.mark.parametrize("is_whole", [pytest.param(True, marks=pytest.mark.long), False])
def test_what_a_killed_run_left_is_used_unless_it_is_damaged(
  place, clustered, undisturbed, small_units, capsys, monkeypatch, is_whole
):
  """Kills the mutants: runs, cosines of shares or of shards that are taken because they are there; what is there and
  made again all the same."""
  gather = comparing.gather_shard

  def killed(config, index):
    if index == 7:
      raise KeyboardInterrupt
    return gather(config, index)

  with monkeypatch.context() as patch:
    patch.setattr(comparing, "gather_shard", killed)
    assert run_in(clustered, [*score_command(place), ONE]) != 0
  left = sorted(path for path in (store_of(clustered) / "compared").rglob("*") if path.is_file())
  assert {path.parent.name for path in left} == {"moved", "parts", "largest", "returned", "cosines"}
  if not is_whole:
    for number, path in enumerate(left):
      data = bytearray(path.read_bytes())
      data[-9] ^= 1
      path.write_bytes(data if number % 2 else data[:-8])
  else:
    monkeypatch.setattr(cluster_tiles, "order_keys", None)
    monkeypatch.setattr(semdedup, "largest_cosines", None)
  capsys.readouterr()
  assert run_in(clustered, [*score_command(place), ONE]) == 0
  assert ("damaged files were found" in capsys.readouterr().err) == (not is_whole)
  assert content(store_of(clustered)) == content(store_of(undisturbed))


def test_a_partial_store_goes_on_with_what_was_compared(place, clustered, undisturbed, monkeypatch):
  """Kills: comparing again where all cosines are on record; a finished shard that is scored again."""
  with monkeypatch.context() as patch:
    patch.setattr(scoring, "score_blocks", None)
    assert run_in(clustered, [*score_command(place), ONE]) != 0
  assert list((store_of(clustered) / "compared").glob("*/cosines/*"))
  with monkeypatch.context() as patch:
    patch.setattr(comparing, "move_group", None)
    patch.setattr(comparing, "gather_shard", None)
    assert run_in(clustered, [*score_command(place), ONE]) == 0
  assert content(store_of(clustered)) == content(store_of(undisturbed))
  (store_of(clustered) / "shards/a.jsonl.parquet").unlink()
  assert run_in(clustered, [*score_command(place), ONE]) == 0
  assert content(store_of(clustered)) == content(store_of(undisturbed))


def test_sizes_that_are_not_the_clusters_are_refused(place, clustered, capsys):
  """Kills: tiles that reach into another cluster because a file of figures says so."""
  path = clustered / "scores/clusters_made/centroids/diagnostics.json"
  told = json.loads(path.read_text())
  told["sizes"][3] -= 1
  told["sizes"][4] += 1
  path.write_text(json.dumps(told))
  assert run_in(clustered, [*score_command(place), ONE]) == 1
  assert "diagnostics.json does not have the sizes of its clusters; delete it" in capsys.readouterr().err
  path.unlink()
  assert run_in(clustered, [*score_command(place), ONE]) == 0


@pytest.mark.parametrize(
  ("more", "told"),
  [
    (["--num_clusters=0"], "--num_clusters=0 is not between 1 and"),
    (["--num_clusters=7"], "clusters_made belongs to another request: num_clusters is 21 there and 7 now"),
    (["--keep=farthest"], "semdedup_made belongs to another request: keep is"),
    (["--name=clusters_made"], "--name=clusters_made is the name of another store too"),
    (["--scorer=prototypes", "--keep=random"], "--keep is for --scorer=semdedup, and this is --scorer=prototypes"),
    (["--clusters=scores/embeddings_made"], "is the store of the embeddings"),
  ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(undisturbed, place, capsys, more, told):
  before = content(undisturbed)
  assert run_in(undisturbed, [*score_command(place), *more, ONE]) == 2
  assert told in capsys.readouterr().err
  assert content(undisturbed) == before


def test_clusters_of_other_embeddings_are_refused(place, undisturbed, tmp_path, capsys):
  """Kills: a request that does not say which clusters, so that others' are compared."""
  shutil.copytree(undisturbed / "scores", tmp_path / "scores")
  (tmp_path / "made").mkdir()
  for path in (place / "made").iterdir():
    np.save(tmp_path / "made" / path.name, -np.load(path))
  other = [f"--embeddings={tmp_path}/made/*", "--embedding_name=embeddings_other", ONE]
  given = "--clusters=scores/clusters_made"
  assert run_in(tmp_path, [*score_command(place), *other, "--name=other", given]) == 2
  assert "scores/clusters_made belongs to another request: embeddings is" in capsys.readouterr().err
  assert run_in(tmp_path, [*score_command(place), *other, "--name=semdedup_made", "--clusters=scores/new"]) == 2
  assert "scores/semdedup_made belongs to another request: clusters is" in capsys.readouterr().err


@pytest.mark.long
def test_curate_gives_what_score_and_sample_give(place, undisturbed):
  folder = place / "curated"
  drawing = ["--rate=0.5", "--output=out", "--num_shards=3"]
  recipe = pathlib.Path(__file__).parents[2] / "recipes/paper/semdedup.yaml"
  namespace, _ = parsing.parse(command_names.CURATE, [f"--recipe={recipe}", "--input=i", "--scores=s", *drawing])
  assert (namespace.scorer, namespace.num_clusters, namespace.keep) == ("semdedup", 10_000, "nearest")
  command = ["curate", "--scorer=semdedup", *reading(place), *KMEANS, *drawing, ONE]
  assert run_in(folder, command) == 0
  shards = sorted(path.name for path in (folder / "out").glob("*.tfrecord*"))
  assert len(shards) == 3
  for name in shards:
    assert (folder / "out" / name).read_bytes() == (undisturbed / "out" / name).read_bytes()
